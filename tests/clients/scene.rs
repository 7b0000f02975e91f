//! The gateways, the faults between them and a client, and how a client is run.
//!
//! Its one rule: a client that is not installed is a failure.
//! It does not know what a client should see.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use harness::gateway::{hcm, shipped};
use harness::process::{Process, tail};
use harness::{Entry, Fault, Gateway, Interposer, Ledger, Options, World, wait_for};
use serde_json::{Value, json};
use tempfile::TempDir;

/// One client before a gateway that others use too, with faults on its way.
pub struct Scene {
    /// Between the client and the gateway.
    pub way: Interposer,
    pub world: &'static World,
    /// The `authorization` of this client, and of no other.
    pub caller: String,
}

impl Scene {
    /// The first calls meet these faults, one each.
    pub fn new(world: &'static World, faults: &[Fault]) -> Scene {
        static CALLERS: AtomicUsize = AtomicUsize::new(1);
        let caller = format!("Bearer alice_{}", CALLERS.fetch_add(1, Ordering::Relaxed));
        let scene = Scene { way: Interposer::start(world.gateway.addr()), world, caller };
        faults.iter().for_each(|fault| scene.way.next(1, fault.clone()));
        scene
    }

    /// What the service has executed for this caller by any method but GET.
    pub fn executions(&self) -> Vec<Entry> {
        let is_ours = |entry: &Entry| entry.header("authorization") == Some(&self.caller) && entry.method != "GET";
        self.world.ledger.entries().into_iter().filter(is_ours).collect()
    }

    /// The one execution for this caller has this `id`.
    #[track_caller]
    pub fn executed_once(&self, id: &Value) {
        let executions = self.executions();
        let paths: Vec<_> = executions.iter().map(|entry| &entry.path).collect();
        assert_eq!(executions.len(), 1, "{paths:?}");
        let at = self.world.ledger.entries().iter().position(|entry| entry.at == executions[0].at).unwrap();
        assert_eq!(*id, format!("pay_{}", at + 1));
    }

    /// Runs a script of this folder to its end, and returns the JSON that it has printed.
    #[track_caller]
    pub fn play(&self, script: &str, mut options: Value) -> Value {
        options["caller"] = json!(self.caller);
        run(script, &format!("http://{}", self.way.addr()), &options)
    }
}

/// A script of this folder, with what is installed for it.
#[track_caller]
fn command(script: &str) -> Command {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script);
    let mut command = match path.extension().and_then(|extension| extension.to_str()) {
        Some("py") => {
            let mut command = Command::new(program("python3"));
            command.env("PYTHONPATH", installed("python")).env("PYTHONDONTWRITEBYTECODE", "1");
            command
        }
        _ => {
            let mut command = Command::new(program("node"));
            command.env("NODE_PATH", installed("node/node_modules"));
            command
        }
    };
    command.arg(&path);
    command
}

#[track_caller]
fn run(script: &str, base: &str, options: &Value) -> Value {
    let mut command = command(script);
    command.args([base, &options.to_string()]);
    let folder = TempDir::with_prefix("envoy-idempotency-client-").expect("a temporary folder");
    let process = Process::start(script, command, &folder.path().join("log")).expect("the client can be started");
    let ended = wait_for(&format!("{script} ends"), CLIENT_PATIENCE, || process.ended());
    let log = process.log();
    let said = log.lines().rev().find(|line| line.starts_with('{')).and_then(|line| serde_json::from_str(line).ok());
    match (ended, said) {
        (Ok(status), Some(said)) if status.success() => said,
        (ended, _) => panic!("{script} {options} ended as {ended:?} and said:\n{}", tail(&log)),
    }
}

/// A program of the system.
#[track_caller]
pub fn program(name: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("{name} is missing: `make clients` installs it."))
}

/// What the Makefile has installed beside what is built.
#[track_caller]
fn installed(folder: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("clients").join(folder);
    assert!(path.is_dir(), "{} is missing: `make clients` installs it.", path.display());
    path
}

/// One rule for each path that the clients use.
pub fn rules() -> &'static World {
    static WORLD: LazyLock<World> = LazyLock::new(|| start(|options| options.configuration(document())));
    &WORLD
}

/// As [`rules`], and what Envoy or a filter answers has the form of Stripe's errors.
pub fn in_the_form_of_stripe() -> &'static World {
    static WORLD: LazyLock<World> = LazyLock::new(|| {
        start(|options| {
            options.configuration(document()).mutate(|tree| {
                hcm(tree)["local_reply_config"] = documented("local_reply_config");
            })
        })
    });
    &WORLD
}

/// `envoy/presets/form-post.yaml` in `envoy/shielded.yaml`.
pub fn checkout() -> &'static World {
    static WORLD: LazyLock<World> = LazyLock::new(|| of_preset("form-post"));
    &WORLD
}

/// A file of `envoy/presets` in `envoy/shielded.yaml`.
pub fn of_preset(preset: &str) -> World {
    start(|options| options.configuration(preset_document(preset)))
}

fn preset_document(preset: &str) -> Value {
    let filters = shipped(&format!("presets/{preset}.yaml")).expect("the file can be read");
    filters[0]["typed_config"]["config"]["configuration"]["value"].clone()
}

/// `envoy/presets/mcp.yaml` before a server of MCP, which is no ledger and says itself what it has done.
pub struct Tools {
    pub way: Interposer,
    _gateway: Gateway,
    _server: Process,
    _folder: TempDir,
}

impl Tools {
    pub fn start() -> Tools {
        let folder = TempDir::with_prefix("envoy-idempotency-mcp-").expect("a temporary folder");
        let server = Process::start("mcp_server", command("node/mcp_server.js"), &folder.path().join("log"));
        let server = server.expect("the server can be started");
        let listens = || server.log().split_once("listens on ")?.1.split_once(".\n")?.0.parse().ok();
        let addr = wait_for("the server listens", CLIENT_PATIENCE, listens);
        let addr = addr.unwrap_or_else(|_| panic!("{}", tail(&server.log())));
        let gateway = Gateway::start(Options::file("local.yaml", addr).configuration(preset_document("mcp")));
        Tools { way: Interposer::start(gateway.addr()), _gateway: gateway, _server: server, _folder: folder }
    }

    /// Runs a script of this folder against it.
    #[track_caller]
    pub fn play(&self, script: &str) -> Value {
        run(script, &format!("http://{}", self.way.addr()), &json!({ "caller": "Bearer alice" }))
    }
}

/// As [`rules`], behind Envoy's own filter for pages of other origins.
pub fn behind_cors() -> &'static World {
    static WORLD: LazyLock<World> = LazyLock::new(|| {
        let of_kind = |kind: &str| json!(format!("type.googleapis.com/envoy.extensions.filters.http.cors.v3.{kind}"));
        let policy = json!({
            "@type": of_kind("CorsPolicy"),
            "allow_origin_string_match": [{ "safe_regex": { "regex": ".*" } }],
            "allow_methods": "POST",
            "allow_headers": "authorization, content-type, idempotency-key",
            "expose_headers": "idempotency-status",
        });
        let filter = json!({ "name": CORS, "typed_config": { "@type": of_kind("Cors") } });
        start(|options| {
            options.configuration(document()).mutate(move |tree| {
                let manager = hcm(tree);
                manager["http_filters"].as_array_mut().expect("http_filters is a list").insert(0, filter);
                manager["route_config"]["virtual_hosts"][0]["typed_per_filter_config"] = json!({ CORS: policy });
            })
        })
    });
    &WORLD
}

/// A block of `docs/clients.md` that begins with this word.
fn documented(word: &str) -> Value {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/clients.md");
    let page = std::fs::read_to_string(page).expect("the page can be read");
    let (_, block) = page.split_once(&format!("```yaml\n{word}:")).expect("the page has the block");
    let block = block.split("```").next().unwrap();
    let block: Value = serde_saphyr::from_str(&format!("{word}:{block}")).expect("it is YAML");
    block[word].clone()
}

/// Inline where nothing else is said.
fn document() -> Value {
    let shielded = json!({ "kind": "shielded", "cluster": "shielded" });
    // Those of Stripe.
    let statuses = json!({ "base": "ietf", "mismatch": 400 });
    let content = json!({ "inject": { "kind": "content" } });
    let either = json!({ "any": [{ "header": "idempotency-key" }, { "header": "x-idempotency-key" }] });
    json!({
        "status_path": "/.well-known/idempotency",
        "rules": [
            rule("/v1/refunds", json!({ "execution": shielded, "statuses": statuses })),
            rule("/v1/customers", json!({ "statuses": statuses })),
            rule("/v1/payouts", json!({ "execution": shielded })),
            rule("/shielded/", json!({ "execution": shielded })),
            rule("/patient/", json!({ "execution": shielded, "on_in_flight": { "action": "wait" } })),
            rule("/content/", json!({ "key": content })),
            rule("/exposed/", json!({ "expose_cors": true })),
            rule("/either/", json!({ "key": { "sources": [either] } })),
            rule("/", json!({})),
        ],
    })
}

fn rule(prefix: &str, policy: Value) -> Value {
    json!({ "match": { "methods": ["POST", "PUT"], "path": { "prefix": prefix } }, "policy": policy })
}

/// `envoy/shielded.yaml` with the ledger behind it.
fn start(change: impl FnOnce(Options) -> Options) -> World {
    let ledger = Ledger::start();
    World { gateway: Gateway::start(change(Options::file("shielded.yaml", ledger.addr()))), ledger }
}

const CORS: &str = "envoy.filters.http.cors";
const CLIENT_PATIENCE: Duration = Duration::from_secs(90);
