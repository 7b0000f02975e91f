//! Real Envoy with the filter, from the file that is shipped.
//!
//! One rule: it starts from `envoy/local.yaml`, or another file of that folder, and changes only ports, paths and what
//! a test asks for, so that a fault in the shipped file is a fault in the tests.
//! It does not know what the filter answers.

use std::fmt;
use std::fs;
use std::net::{SocketAddr, TcpStream as Probe};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::CALLER;
use crate::client::Request;
use crate::dialect::Dialect;
use crate::ports::Port;
use crate::process::{Process, tail};
use crate::wait::{PATIENCE, wait_for, wait_until};

/// What to start, and how it differs from the shipped file.
pub struct Options {
    file: &'static str,
    tree: Option<Value>,
    upstream: SocketAddr,
    configuration: Option<Value>,
    as_struct: bool,
    lds: bool,
    hot_restart: bool,
    concurrency: u32,
    drain_time_s: u32,
    port: Option<u16>,
    log_level: String,
    env: Vec<(String, String)>,
    changes: Vec<Change>,
}

type Change = Box<dyn FnOnce(&mut Value)>;

impl Options {
    /// `envoy/local.yaml` with the service at `upstream`, on free ports, with two workers.
    pub fn new(upstream: SocketAddr) -> Options {
        Options::file(LOCAL, upstream)
    }

    /// The file of the dialect that was chosen, with the store, or its HTTP front, at `store`; otherwise as
    /// [`new`](Options::new).
    pub fn redis(upstream: SocketAddr, store: SocketAddr) -> Options {
        Options::speaking(Dialect::chosen(), upstream, store)
    }

    /// The file of this dialect.
    pub fn speaking(dialect: Dialect, upstream: SocketAddr, store: SocketAddr) -> Options {
        Options::file(dialect.file(), upstream)
            .mutate(move |tree| set_endpoint(cluster(tree, dialect.cluster()), store))
    }

    /// As [`new`](Options::new) from another file of the folder `envoy`.
    pub fn file(file: &'static str, upstream: SocketAddr) -> Options {
        Options {
            file,
            tree: None,
            upstream,
            configuration: None,
            as_struct: false,
            lds: false,
            hot_restart: false,
            concurrency: 2,
            drain_time_s: 1,
            port: None,
            log_level: "info".to_owned(),
            env: Vec::new(),
            changes: Vec::new(),
        }
    }

    /// As [`new`](Options::new) from this configuration instead of a file; a module that it fetches is fetched.
    pub fn of(tree: Value, upstream: SocketAddr) -> Options {
        Options { tree: Some(tree), ..Options::new(upstream) }
    }

    /// The plugin configuration, otherwise the file's own. A JSON string goes in as it is, so that a document can be
    /// malformed.
    pub fn configuration(mut self, configuration: Value) -> Options {
        self.configuration = Some(configuration);
        self
    }

    /// Passes the plugin configuration as a `Struct` instead of a `StringValue`.
    pub fn as_struct(mut self) -> Options {
        self.as_struct = true;
        self
    }

    /// Delivers the first listener through a watched file, so that it can be updated while Envoy runs.
    pub fn lds(mut self) -> Options {
        self.lds = true;
        self
    }

    /// Lets a second process take over: [`Gateway::hot_restart`].
    pub fn hot_restart(mut self) -> Options {
        self.hot_restart = true;
        self
    }

    /// How many workers.
    pub fn concurrency(mut self, workers: u32) -> Options {
        self.concurrency = workers;
        self
    }

    /// How long an old listener lives on after an update; its connections are cut at the end. Otherwise 1 s.
    pub fn drain_time_s(mut self, seconds: u32) -> Options {
        self.drain_time_s = seconds;
        self
    }

    /// Listens on this port instead of a free one.
    pub fn port(mut self, port: u16) -> Options {
        self.port = Some(port);
        self
    }

    /// Envoy's `--log-level`, otherwise `info`.
    pub fn log_level(mut self, level: &str) -> Options {
        self.log_level = level.to_owned();
        self
    }

    /// Adds an environment variable for Envoy.
    pub fn env(mut self, name: &str, value: &str) -> Options {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Changes the whole tree of the configuration, after everything else; see [`listener`], [`hcm`], [`plugin`] and
    /// [`cluster`] for the way in.
    pub fn mutate(mut self, change: impl FnOnce(&mut Value) + 'static) -> Options {
        self.changes.push(Box::new(change));
        self
    }

    /// Lets trailers pass on HTTP/1.1 connections to both sides; otherwise Envoy drops them before any filter sees them.
    pub fn trailers(self) -> Options {
        self.mutate(|tree| {
            let enabled = json!({ "enable_trailers": true });
            hcm(tree)["http_protocol_options"] = enabled.clone();
            cluster(tree, "payments")["typed_extension_protocol_options"] = json!({
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    "explicit_http_config": { "http_protocol_options": enabled },
                },
            });
        })
    }

    /// Adds the listener of `envoy/operator.yaml` on this port, where operators are asked for this token, with this store;
    /// the variables that it wants are the gateway's too, as they share a VM.
    pub fn operator(self, port: SocketAddr, token: &str, store: Value) -> Options {
        self.env(OPERATOR_TOKEN, token).mutate(move |tree| {
            let mut operator = shipped("operator.yaml").map(|mut tree| listener_named(&mut tree, "operator").take());
            let operator = operator.as_mut().unwrap_or_else(|message| panic!("{message}"));
            operator["address"]["socket_address"]["port_value"] = json!(port.port());
            let config = &mut hcm_of(operator)["http_filters"][0]["typed_config"]["config"];
            config["vm_config"]["code"]["local"]["filename"] = json!(filter_wasm());
            let text = config["configuration"]["value"].as_str().unwrap_or_default();
            let mut document: Value = serde_json::from_str(text).expect("the shipped document is JSON");
            document["store"] = store;
            set_configuration(config, &document, false);
            let variables = json!({ "host_env_keys": [OPERATOR_TOKEN] });
            plugin(tree)["vm_config"]["environment_variables"] = variables.clone();
            let listeners = tree["static_resources"]["listeners"].as_array_mut().expect("listeners is a list");
            listeners.retain(|listener| listener["name"] != "operator");
            listeners.push(operator.take());
        })
    }

    /// Takes the filter out: what the same gateway does without it.
    pub fn without_filter(self) -> Options {
        self.mutate(|tree| {
            let filters = hcm(tree)["http_filters"].as_array_mut().expect("http_filters is a list");
            filters.retain(|filter| filter["name"] != FILTER);
        })
    }
}

/// A running Envoy.
pub struct Gateway {
    addr: SocketAddr,
    admin: SocketAddr,
    process: Process,
    /// Those that a later process has taken over from.
    parents: Vec<Process>,
    command: CommandLine,
    lds: Option<Mutex<Lds>>,
    // Dropped after the process has ended.
    _port: Port,
    folder: TempDir,
}

impl Gateway {
    /// Starts Envoy and returns when it serves; panics with its log when it does not.
    #[track_caller]
    pub fn start(options: Options) -> Gateway {
        Gateway::try_start(options).unwrap_or_else(|message| panic!("{message}"))
    }

    /// Starts Envoy and returns when it serves, or a sentence and the log when it refuses its configuration.
    pub fn try_start(options: Options) -> Result<Gateway, String> {
        let folder =
            TempDir::with_prefix("envoy-idempotency-").map_err(|error| format!("No temporary folder: {error}."))?;
        let port = match options.port {
            Some(number) => Port::take(number)?,
            None => Port::reserve(),
        };
        let mut tree = options.tree.map_or_else(|| shipped(options.file), Ok)?;
        listener(&mut tree)["address"]["socket_address"]["port_value"] = json!(port.number());
        tree["admin"]["address"]["socket_address"]["port_value"] = json!(0);
        set_endpoint(cluster(&mut tree, "payments"), options.upstream);
        hcm(&mut tree)["access_log"][0]["name"] = json!("envoy.access_loggers.file");
        let access_log = &mut hcm(&mut tree)["access_log"][0]["typed_config"];
        access_log["@type"] = json!("type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog");
        access_log["path"] = json!(folder.path().join(ACCESS_LOG));
        let plugin_config = plugin(&mut tree);
        if let Some(local) = plugin_config["vm_config"]["code"].get_mut("local") {
            local["filename"] = json!(filter_wasm());
        }
        set_other_modules(&mut tree);
        let plugin_config = plugin(&mut tree);
        if let Some(configuration) = &options.configuration {
            set_configuration(plugin_config, configuration, options.as_struct);
        }
        for change in options.changes {
            change(&mut tree);
        }
        let own = hcm(&mut tree)["http_filters"].as_array().and_then(|all| all.iter().find(|f| f["name"] == FILTER));
        let own = own.map(|filter| filter["typed_config"]["config"].clone());
        keep_as(&mut tree, own.as_ref());
        if own.is_some() && !filter_wasm().is_file() {
            return Err(format!(
                "The filter is not at {}: `make build` makes it, and `make test` before the tests.",
                filter_wasm().display()
            ));
        }

        let lds = options.lds.then(|| Lds::take_listener(&mut tree, folder.path(), options.as_struct)).transpose()?;
        let config = folder.path().join("envoy.json");
        write(&config, &tree)?;

        let command = CommandLine {
            binary: envoy_bin(),
            arguments: vec![
                "--config-path".to_owned(),
                config.display().to_string(),
                "--admin-address-path".to_owned(),
                folder.path().join(ADMIN_ADDRESS).display().to_string(),
                "--concurrency".to_owned(),
                options.concurrency.to_string(),
                "--log-level".to_owned(),
                options.log_level,
                // Its list of extensions and header maps would fill every log that is shown.
                "--component-log-level".to_owned(),
                "main:warning".to_owned(),
                "--drain-time-s".to_owned(),
                options.drain_time_s.to_string(),
                // Otherwise the access log appears after ten seconds.
                "--file-flush-interval-msec".to_owned(),
                "20".to_owned(),
            ],
            // Any number of Envoys run beside each other.
            restart: match options.hot_restart {
                true => ["--use-dynamic-base-id", "--base-id-path", &base_id_file(folder.path()).to_string_lossy()]
                    .map(str::to_owned)
                    .into(),
                false => vec!["--disable-hot-restart".to_owned()],
            },
            env: options.env,
        };
        if !command.binary.is_file() {
            return Err(format!("Envoy is not at {}: `make test` fetches it.", command.binary.display()));
        }
        let (process, admin) = launch(&command, folder.path(), lds.is_some())?;
        let (addr, lds) = (port.addr(), lds.map(Mutex::new));
        Ok(Gateway { addr, admin, process, parents: Vec::new(), command, lds, _port: port, folder })
    }

    /// Where it serves HTTP/1.1 and HTTP/2.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// A POST to it, by [`CALLER`].
    pub fn post(&self, path: &str) -> Request {
        self.request("POST", path)
    }

    /// Any request to it, by [`CALLER`].
    pub fn request(&self, method: &str, path: &str) -> Request {
        Request::new(self.addr, method, path).caller(CALLER)
    }

    /// Where its admin interface is.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin
    }

    /// The body of a GET to the admin interface.
    #[track_caller]
    pub fn admin(&self, path: &str) -> String {
        Request::new(self.admin, "GET", path).send().text()
    }

    /// The value of a counter or gauge (`wasmcustom.idempotency_running`), 0 when there is none.
    #[track_caller]
    pub fn stat(&self, name: &str) -> u64 {
        stat(self.admin, name).unwrap_or_else(|message| panic!("{message}"))
    }

    /// Returns when the counter or gauge is at least `value`.
    #[track_caller]
    pub fn wait_for_stat(&self, name: &str, value: u64) {
        wait_until(&format!("{name} is at least {value}"), PATIENCE, || self.stat(name) >= value);
    }

    /// What a counter of the filter has counted, all rules together: `stored`, or with the last of its labels
    /// `requests.executed`, `refused.in-flight`; what trials count begins with `observed_`.
    #[track_caller]
    pub fn counted(&self, what: &str) -> u64 {
        let (family, label) = what.split_once('.').map_or((what, None), |(family, label)| (family, Some(label)));
        let path = format!("/stats?format=json&filter=%5Ewasmcustom%5C.idempotency%5B._%5D{family}_total");
        let tree: Value = serde_json::from_str(&self.admin(&path)).expect("Envoy's counters are JSON");
        let stats = tree["stats"].as_array().map(Vec::as_slice).unwrap_or_default();
        let is_it = |stat: &&Value| {
            let name = stat["name"].as_str().unwrap_or_default();
            label.is_none_or(|label| name.strip_suffix(label).is_some_and(|front| front.ends_with('.')))
        };
        stats.iter().filter(is_it).filter_map(|stat| stat["value"].as_u64()).sum()
    }

    /// Returns when so many have been [`counted`](Self::counted).
    #[track_caller]
    pub fn wait_for_count(&self, what: &str, count: u64) {
        wait_until(&format!("{what} is counted {count} times"), PATIENCE, || self.counted(what) >= count);
    }

    /// The version of Envoy, such as `1.40.0`.
    pub fn version(&self) -> String {
        let info: Value = serde_json::from_str(&self.admin("/server_info")).expect("Envoy's account of itself is JSON");
        info["version"].as_str().and_then(|text| text.split('/').nth(1)).expect("it has a version").to_owned()
    }

    /// Everything Envoy has logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Returns when the log contains the text.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str) {
        wait_until(&format!("Envoy's log contains {text:?}"), PATIENCE, || self.log().contains(text));
    }

    /// The access log, one line a finished request; it is written within some milliseconds.
    pub fn access_log(&self) -> String {
        fs::read(self.folder.path().join(ACCESS_LOG))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Returns the first line of the access log that contains the text, when there is one.
    #[track_caller]
    pub fn wait_for_access_log(&self, text: &str) -> String {
        wait_for(&format!("the access log contains {text:?}"), PATIENCE, || {
            // Envoy may have written no more than the beginning of the last one.
            let log = self.access_log();
            let mut whole = log.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
            whole.find(|line| line.contains(text)).map(str::to_owned)
        })
        .unwrap_or_else(|message| panic!("{message}\nIt is:\n{}", self.access_log()))
    }

    /// The process id of Envoy.
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// Whether Envoy still runs.
    pub fn is_running(&self) -> bool {
        self.process.ended().is_none()
    }

    /// Replaces the plugin configuration while Envoy runs; needs [`Options::lds`]. Returns when Envoy has accepted or
    /// refused it; a refusal comes back as Envoy's own words. Workers follow some milliseconds after an acceptance.
    #[track_caller]
    pub fn update_plugin_config(&self, configuration: &Value) -> Result<(), String> {
        let as_struct = self.lds_file().as_struct;
        self.update_listener(|listener| set_configuration(plugin_of(listener), configuration, as_struct))
    }

    /// Changes the listener while Envoy runs; needs [`Options::lds`]. As [`update_plugin_config`](Self::update_plugin_config).
    #[track_caller]
    pub fn update_listener(&self, change: impl FnOnce(&mut Value)) -> Result<(), String> {
        self.update(&LDS_COUNTERS, |lds| change(&mut lds.listener))
    }

    /// The same with the cluster that leads to Redis, where there is one.
    #[track_caller]
    pub fn update_way_to_redis(&self, change: impl FnOnce(&mut Value)) -> Result<(), String> {
        self.update(&CDS_COUNTERS, |lds| lds.to_redis.as_mut().map_or((), change))
    }

    #[track_caller]
    fn update(&self, counters: &[&str; 3], change: impl FnOnce(&mut Lds)) -> Result<(), String> {
        let counters = || counters.map(|name| self.stat(name));
        let before = counters();
        let logged = self.log().len();
        let mut lds = self.lds_file();
        change(&mut lds);
        lds.write()?;
        drop(lds);
        wait_until("Envoy has judged what is new", PATIENCE, || counters() != before);
        if counters()[0] > before[0] { Ok(()) } else { Err(self.log().split_off(logged)) }
    }

    /// Takes the listener out while Envoy runs, and returns when it has drained; needs [`Options::lds`].
    #[track_caller]
    pub fn remove_listener(&self) {
        let listeners = || self.stat("listener_manager.total_listeners_active");
        let draining = || self.stat("listener_manager.total_listeners_draining");
        let before = listeners();
        self.list(false);
        wait_until("the listener has gone", PATIENCE, || listeners() < before && draining() == 0);
    }

    /// Puts the listener back after [`remove_listener`](Gateway::remove_listener), and returns when it serves.
    #[track_caller]
    pub fn restore_listener(&self) {
        self.list(true);
        wait_until("the listener is back", PATIENCE, || Probe::connect(self.addr).is_ok());
    }

    #[track_caller]
    fn list(&self, is_listed: bool) {
        let mut lds = self.lds_file();
        lds.is_listed = is_listed;
        lds.write().unwrap_or_else(|message| panic!("{message}"));
    }

    /// Ends Envoy with SIGKILL, as a crash would.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Ends Envoy with SIGTERM and returns when it is gone.
    pub fn stop(&self) {
        self.process.terminate();
    }

    /// Stops Envoy in its tracks (SIGSTOP): connections stay, and nothing goes on.
    pub fn freeze(&self) {
        self.process.freeze();
    }

    /// Lets it go on after [`freeze`](Gateway::freeze).
    pub fn thaw(&self) {
        self.process.thaw();
    }

    /// Starts Envoy again with the same configuration on the same port, if need be after ending it with SIGKILL.
    #[track_caller]
    pub fn restart(&mut self) {
        self.process.kill();
        let (process, admin) =
            launch(&self.command, self.folder.path(), self.lds.is_some()).unwrap_or_else(|message| panic!("{message}"));
        self.process = process;
        self.admin = admin;
    }

    /// Starts a second process that takes the listeners over, and returns when it serves; needs
    /// [`Options::hot_restart`]. The first one lives on for what it has under way.
    #[track_caller]
    pub fn hot_restart(&mut self) {
        let id = fs::read_to_string(base_id_file(self.folder.path())).expect("Envoy has written its base id");
        let epoch = self.parents.len() + 1;
        self.command.restart =
            ["--base-id", id.trim(), "--restart-epoch", &epoch.to_string()].map(str::to_owned).into();
        let (process, admin) =
            launch(&self.command, self.folder.path(), self.lds.is_some()).unwrap_or_else(|message| panic!("{message}"));
        self.parents.push(std::mem::replace(&mut self.process, process));
        self.admin = admin;
    }

    #[track_caller]
    fn lds_file(&self) -> std::sync::MutexGuard<'_, Lds> {
        let lds = self.lds.as_ref().expect("A gateway can only be updated when it was started with Options::lds.");
        lds.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Envoy on {} with admin on {}, process {}", self.addr, self.admin, self.process.id())
    }
}

/// A file of the folder `envoy` as a tree.
pub fn shipped(file: &str) -> Result<Value, String> {
    let file = repository().join("envoy").join(file);
    let text = fs::read_to_string(&file).map_err(|error| format!("{} cannot be read: {error}.", file.display()))?;
    yaml(&text).map_err(|error| format!("{} is not YAML: {error}", file.display()))
}

/// What a YAML document says.
pub fn yaml(text: &str) -> Result<Value, String> {
    serde_saphyr::from_str(text).map_err(|error| error.to_string())
}

/// The listener of a tree.
pub fn listener(tree: &mut Value) -> &mut Value {
    &mut tree["static_resources"]["listeners"][0]
}

/// A listener of a tree by its name.
#[track_caller]
pub fn listener_named<'a>(tree: &'a mut Value, name: &str) -> &'a mut Value {
    named(tree, "listeners", name)
}

/// The HTTP connection manager of a tree.
pub fn hcm(tree: &mut Value) -> &mut Value {
    hcm_of(listener(tree))
}

/// The filter's `PluginConfig` in a tree (`failure_policy`, `vm_config` and so on).
pub fn plugin(tree: &mut Value) -> &mut Value {
    plugin_of(listener(tree))
}

/// A cluster of a tree by its name.
#[track_caller]
pub fn cluster<'a>(tree: &'a mut Value, name: &str) -> &'a mut Value {
    named(tree, "clusters", name)
}

/// Points a cluster at an address.
pub fn set_endpoint(cluster: &mut Value, addr: SocketAddr) {
    set_endpoints(cluster, &[addr]);
}

/// Points a cluster at several addresses.
pub fn set_endpoints(cluster: &mut Value, addrs: &[SocketAddr]) {
    let endpoint = |addr: &SocketAddr| {
        let socket = json!({ "address": addr.ip().to_string(), "port_value": addr.port() });
        json!({ "endpoint": { "address": { "socket_address": socket } } })
    };
    cluster["load_assignment"]["endpoints"][0]["lb_endpoints"] = addrs.iter().map(endpoint).collect();
}

/// Points a cluster at a Unix domain socket.
pub fn set_pipe(cluster: &mut Value, path: &Path) {
    let address = json!({ "pipe": { "path": path } });
    cluster["load_assignment"]["endpoints"][0]["lb_endpoints"] = json!([{ "endpoint": { "address": address } }]);
}

/// The Envoy to run: `ENVOY_BIN`, otherwise where `make` puts it.
pub fn envoy_bin() -> PathBuf {
    std::env::var_os("ENVOY_BIN").map_or_else(|| repository().join(".cache/envoy-1.40.0/envoy"), PathBuf::from)
}

/// The filter's module: `FILTER_WASM`, otherwise where `cargo` puts it.
pub fn filter_wasm() -> PathBuf {
    std::env::var_os("FILTER_WASM")
        .map_or_else(|| repository().join("target/wasm32-wasip1/release/envoy_idempotency.wasm"), PathBuf::from)
}

/// The root of the repository.
pub fn repository() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().unwrap_or(root)
}

/// The plugin that takes frames off on the way to Redis, and the one that operators ask, are of the same module; only some
/// files have them.
fn set_other_modules(tree: &mut Value) {
    let module = json!(filter_wasm());
    let clusters = tree["static_resources"]["clusters"].as_array_mut().into_iter().flatten();
    for framing in clusters.filter_map(framing_of) {
        framing["typed_config"]["config"]["vm_config"]["code"]["local"]["filename"] = module.clone();
    }
    let listeners = tree["static_resources"]["listeners"].as_array_mut().into_iter().flatten();
    for operator in listeners.filter(|listener| listener["name"] == "operator") {
        let filter = &mut hcm_of(operator)["http_filters"][0];
        filter["typed_config"]["config"]["vm_config"]["code"]["local"]["filename"] = module.clone();
    }
}

/// The plugin of a cluster that takes frames off.
pub fn framing_of(cluster: &mut Value) -> Option<&mut Value> {
    let options = cluster.get_mut("typed_extension_protocol_options")?.get_mut(PROTOCOL_OPTIONS)?;
    options.get_mut("http_filters")?.as_array_mut()?.iter_mut().find(|filter| filter["name"] == "framing")
}

/// Under what a cluster says how it speaks.
pub const PROTOCOL_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// Has the service that keeps the records run what the filter runs, as the file's alias does; without a filter there is
/// none.
fn keep_as(tree: &mut Value, own: Option<&Value>) {
    let Some(extensions) = tree["bootstrap_extensions"].as_array_mut() else { return };
    extensions.retain(|extension| own.is_some() || extension["name"] != KEEPER);
    for keeper in extensions.iter_mut().filter(|extension| extension["name"] == KEEPER) {
        keeper["typed_config"]["config"] = own.cloned().unwrap_or_default();
    }
}

/// The listener, and the cluster that leads to Redis, as files that Envoy watches.
#[derive(Debug)]
struct Lds {
    folder: PathBuf,
    listener: Value,
    /// Where there is one; it is always listed.
    to_redis: Option<Value>,
    is_listed: bool,
    as_struct: bool,
    version: u32,
}

impl Lds {
    /// Moves both out of the tree into files of their own.
    fn take_listener(tree: &mut Value, folder: &Path, as_struct: bool) -> Result<Lds, String> {
        let typed = |mut it: Value, kind: &str| {
            it["@type"] = json!(format!("type.googleapis.com/envoy.config.{kind}"));
            it
        };
        let listeners = tree["static_resources"]["listeners"].as_array_mut().ok_or("listeners is no list")?;
        let listener = typed(listeners.remove(0), "listener.v3.Listener");
        let clusters = tree["static_resources"]["clusters"].as_array_mut().ok_or("clusters is no list")?;
        let to_redis = clusters.iter_mut().position(|cluster| framing_of(cluster).is_some());
        let to_redis = to_redis.map(|place| typed(clusters.remove(place), "cluster.v3.Cluster"));
        tree["node"] = json!({ "id": "harness", "cluster": "harness" });
        for kind in ["lds", "cds"].into_iter().take(1 + usize::from(to_redis.is_some())) {
            // A folder for each, because Envoy reads again when anything in the folder is replaced.
            let folder = folder.join(kind);
            fs::create_dir(&folder).map_err(|error| format!("{} cannot be made: {error}.", folder.display()))?;
            tree["dynamic_resources"][format!("{kind}_config")] = json!({
                "resource_api_version": "V3",
                "path_config_source": { "path": folder.join(FILE), "watched_directory": { "path": &folder } },
            });
        }
        let folder = folder.to_owned();
        let mut lds = Lds { folder, listener, to_redis, is_listed: true, as_struct, version: 0 };
        lds.write()?;
        Ok(lds)
    }

    fn write(&mut self) -> Result<(), String> {
        self.version += 1;
        if let Some(cluster) = &self.to_redis {
            self.replace("cds", &[cluster])?;
        }
        let listed = self.is_listed.then_some(&self.listener);
        self.replace("lds", &Vec::from_iter(listed))
    }

    fn replace(&self, kind: &str, resources: &[&Value]) -> Result<(), String> {
        let response = json!({ "version_info": self.version.to_string(), "resources": resources });
        // Envoy must never see half a file: write beside it, then rename. It watches for the rename, so the first
        // name must lie in another folder.
        let draft = self.folder.join(format!("{kind}.json"));
        write(&draft, &response)?;
        fs::rename(&draft, self.folder.join(kind).join(FILE))
            .map_err(|error| format!("The file of {kind} cannot be replaced: {error}."))
    }
}

/// How Envoy was started, to start it again.
#[derive(Debug)]
struct CommandLine {
    binary: PathBuf,
    arguments: Vec<String>,
    /// What it says of hot restarts.
    restart: Vec<String>,
    env: Vec<(String, String)>,
}

/// Starts Envoy and waits until it serves.
fn launch(command_line: &CommandLine, folder: &Path, lds: bool) -> Result<(Process, SocketAddr), String> {
    let address_file = folder.join(ADMIN_ADDRESS);
    // From an earlier start, if there is one.
    let _ = fs::remove_file(&address_file);
    let mut command = Command::new(&command_line.binary);
    command
        .args(&command_line.arguments)
        .args(&command_line.restart)
        .envs(command_line.env.iter().cloned())
        .current_dir(folder);
    let process = Process::start("Envoy", command, &folder.join("envoy.log"))
        .map_err(|error| format!("Envoy ({}) cannot be started: {error}.", command_line.binary.display()))?;

    let refused = |what: &str| format!("{what} Its log ends:\n{}", tail(&process.log()));
    let serving = wait_for("Envoy serves", START_PATIENCE, || {
        if let Some(status) = process.ended() {
            return Some(Err(refused(&format!("Envoy did not start ({status})."))));
        }
        let admin: SocketAddr = fs::read_to_string(&address_file).ok()?.trim().parse().ok()?;
        let ready = Request::new(admin, "GET", "/ready").try_send().ok()?.status == 200;
        let judged = || Some(LDS_COUNTERS.map(|name| stat(admin, name).unwrap_or(0)));
        match (ready, lds.then(judged).flatten()) {
            (false, _) | (true, Some([0, 0, 0])) => None,
            (true, Some([0, ..])) => Some(Err(refused("Envoy refused its listener."))),
            (true, _) if stat(admin, "listener_manager.workers_started") == Ok(1) => Some(Ok(admin)),
            (true, _) => None,
        }
    });
    match serving.unwrap_or_else(|message| Err(refused(&message))) {
        Ok(admin) => Ok((process, admin)),
        Err(message) => Err(message),
    }
}

/// Where Envoy writes under which number its processes find each other.
fn base_id_file(folder: &Path) -> PathBuf {
    folder.join("base-id")
}

fn stat(admin: SocketAddr, name: &str) -> Result<u64, String> {
    let pattern = name.replace('.', "\\.").replace('\\', "%5C");
    let path = format!("/stats?format=json&filter=%5E{pattern}$");
    let answer = Request::new(admin, "GET", &path).try_send()?;
    let tree: Value = serde_json::from_slice(&answer.body).map_err(|_| format!("{path} answered {}", answer.text()))?;
    let stats = tree["stats"].as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(stats.iter().find(|stat| stat["name"] == name).and_then(|stat| stat["value"].as_u64()).unwrap_or(0))
}

#[track_caller]
fn named<'a>(tree: &'a mut Value, kind: &str, name: &str) -> &'a mut Value {
    let all = tree["static_resources"][kind].as_array_mut().unwrap_or_else(|| panic!("{kind} is a list"));
    all.iter_mut()
        .find(|one| one["name"] == name)
        .unwrap_or_else(|| panic!("There is no {name} among the {kind} of the configuration."))
}

/// The HTTP connection manager of a listener.
pub fn hcm_of(listener: &mut Value) -> &mut Value {
    &mut listener["filter_chains"][0]["filters"][0]["typed_config"]
}

fn plugin_of(listener: &mut Value) -> &mut Value {
    let filters = hcm_of(listener)["http_filters"].as_array_mut().expect("http_filters is a list");
    let filter = filters.iter_mut().find(|filter| filter["name"] == FILTER).expect("the filter is in http_filters");
    &mut filter["typed_config"]["config"]
}

fn set_configuration(plugin: &mut Value, configuration: &Value, as_struct: bool) {
    plugin["configuration"] = if as_struct {
        json!({ "@type": "type.googleapis.com/google.protobuf.Struct", "value": configuration })
    } else {
        let text = configuration.as_str().map_or_else(|| configuration.to_string(), str::to_owned);
        json!({ "@type": "type.googleapis.com/google.protobuf.StringValue", "value": text })
    };
}

fn write(file: &Path, tree: &Value) -> Result<(), String> {
    fs::write(file, tree.to_string()).map_err(|error| format!("{} cannot be written: {error}.", file.display()))
}

const LOCAL: &str = "local.yaml";
/// The variable of `envoy/operator.yaml` that holds the token.
const OPERATOR_TOKEN: &str = "IDEMPOTENCY_OPERATOR_TOKEN";
pub const FILTER: &str = "idempotency";
const KEEPER: &str = "envoy.bootstrap.wasm";
const ACCESS_LOG: &str = "access.log";
const ADMIN_ADDRESS: &str = "admin.addr";
/// Accepted first, then the two ways to be refused: by its content, and as a file that makes no sense.
const LDS_COUNTERS: [&str; 3] = [
    "listener_manager.lds.update_success",
    "listener_manager.lds.update_rejected",
    "listener_manager.lds.update_failure",
];
const CDS_COUNTERS: [&str; 3] =
    ["cluster_manager.cds.update_success", "cluster_manager.cds.update_rejected", "cluster_manager.cds.update_failure"];
/// What Envoy watches, in a folder of its own.
const FILE: &str = "resources.json";
/// Compiling the module takes V8 a while, the more so beside other Envoys.
const START_PATIENCE: Duration = Duration::from_secs(60);
