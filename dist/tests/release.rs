//! What `make dist` puts together, as those take it who have no build: from a registry, into their own Envoy.
//!
//! Its one rule: what is looked at is the folder that the program writes, and what real tools make of it.
//! It does not know how the module is built.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that fails panics"
)]

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use flate2::read::GzDecoder;
use harness::gateway::{envoy_bin, filter_wasm, repository, yaml};
use harness::ledger::sha256_hex;
use harness::registry::Registry;
use harness::{Gateway, Ledger, Options, Port};
use serde_json::Value;
use tempfile::TempDir;
use wasmparser::{Parser, Payload};

const VERSION: &str = env!("CARGO_PKG_VERSION");
const NAME: &str = "envoy-idempotency";

/// A release of the module that the other tests run, without the programs.
fn release() -> &'static Path {
    static RELEASE: LazyLock<PathBuf> = LazyLock::new(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("release");
        write(&folder);
        folder
    });
    &RELEASE
}

fn write(folder: &Path) {
    let output = Command::new(env!("CARGO_BIN_EXE_dist")).arg(filter_wasm()).arg(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The file of a blob in what was pulled.
fn blob(folder: &Path, descriptor: &Value) -> PathBuf {
    folder.join(descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap())
}

#[test]
fn an_envoy_of_their_own_loads_the_module_from_a_registry_and_replays() {
    let (registry, ledger) = (Registry::start(), Ledger::start());
    registry.push(&release().join("artifact"), &format!("{NAME}:{VERSION}"));
    let text = fs::read_to_string(release().join("envoy.yaml")).unwrap();
    assert_eq!(text.matches("127.0.0.1:5000").count(), 1, "the address stands once as an authority:\n{text}");
    let port = registry.addr().port();
    let text = text.replace("127.0.0.1:5000", &registry.addr().to_string());
    let text = text.replace("port_value: 5000", &format!("port_value: {port}"));
    let tree = yaml(&text).unwrap();
    let gateway = Gateway::start(Options::of(tree, ledger.addr()));
    let pay = gateway.post("/v1/payments").key("order-1001").body(r#"{"amount":4200}"#);
    let (first, again) = (pay.send(), pay.send());
    assert_eq!((first.status, again.status), (201, 201));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(first.body, again.body);
    assert_eq!(ledger.entries().len(), 1);
    gateway.wait_for_log(&format!("envoy-idempotency {VERSION}: "));
}

#[test]
fn the_readme_leads_from_a_registry_to_the_first_replay() {
    let (registry, ledger, folder) = (Registry::start(), Ledger::start(), TempDir::new().unwrap());
    let (port, admin) = (Port::unshared(), Port::unshared());
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    let (_, section) = readme.split_once("\n## Take a release\n").unwrap();
    let (_, commands) = section.split_once("```sh\n").unwrap();
    let (commands, _) = commands.split_once("```").unwrap();
    // Only the ports are others: several tests run at once.
    let ports =
        [(5000, registry.addr().port()), (10000, port.number()), (9901, admin.number()), (8080, ledger.addr().port())];
    let elsewhere = |text: &str| {
        ports.iter().fold(text.to_owned(), |text, (from, to)| {
            let text = text.replace(&format!("127.0.0.1:{from}"), &format!("127.0.0.1:{to}"));
            text.replace(&format!("port_value: {from} "), &format!("port_value: {to} "))
        })
    };
    let dist = folder.path().join("target/dist");
    fs::create_dir_all(dist.parent().unwrap()).unwrap();
    write(&dist);
    let file = dist.join("envoy.yaml");
    fs::write(&file, elsewhere(&fs::read_to_string(&file).unwrap())).unwrap();
    std::os::unix::fs::symlink(envoy_bin(), folder.path().join("envoy")).unwrap();
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    // What runs in the background ends with the shell.
    let script = format!("set -e\ntrap 'kill $(jobs -p)' EXIT\n{}", elsewhere(commands));
    let mut shell = Command::new("bash");
    let output = shell.args(["-c", &script]).current_dir(folder.path()).env("PATH", path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let answers: Vec<_> = said.split("HTTP/1.1 ").skip(1).collect();
    let shown = format!("{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(answers.len(), 2, "{shown}");
    assert!(answers[0].starts_with("201") && answers[0].contains("idempotency-status: executed;stored=?1"), "{shown}");
    assert!(answers[1].starts_with("201") && answers[1].contains("idempotent-replayed: true"), "{shown}");
    assert_eq!(ledger.entries().len(), 1);
}

/// A part of the release as it comes back from a registry, and its manifest.
fn back_from_a_registry(part: &str) -> (TempDir, Value) {
    let (registry, pulled) = (Registry::start(), TempDir::new().unwrap());
    registry.push(&release().join(part), &format!("{NAME}:{VERSION}"));
    registry.pull(&format!("{NAME}:{VERSION}"), pulled.path());
    let manifest = json(&pulled.path().join("manifest.json"));
    (pulled, manifest)
}

#[test]
fn the_image_comes_back_from_a_registry_with_the_module_as_plugin_wasm() {
    let (pulled, manifest) = back_from_a_registry("image");
    let layers = manifest["layers"].as_array().unwrap();
    // What Istio and Envoy Gateway look for in the last layer of an OCI image.
    assert_eq!(layers.last().unwrap()["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
    assert_eq!(manifest["annotations"]["module.wasm.image/variant"], "compat");
    assert_eq!(manifest["annotations"]["org.opencontainers.image.version"], VERSION);
    let layer = fs::File::open(blob(pulled.path(), layers.last().unwrap())).unwrap();
    let mut archive = tar::Archive::new(GzDecoder::new(layer));
    let mut entry = archive.entries().unwrap().next().expect("it holds a file").unwrap();
    assert_eq!(entry.path().unwrap(), Path::new("plugin.wasm"));
    let mut module = Vec::new();
    entry.read_to_end(&mut module).unwrap();
    assert_eq!(sha256_hex(&module), sha256_hex(&fs::read(filter_wasm()).unwrap()));
}

#[test]
fn the_artifact_has_the_two_layers_that_istio_wants_and_one_is_the_module() {
    let (pulled, manifest) = back_from_a_registry("artifact");
    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 2);
    let is_module = |layer: &&Value| layer["mediaType"] == "application/vnd.module.wasm.content.layer.v1+wasm";
    let module = layers.iter().find(is_module).expect("one is the module");
    assert_eq!(fs::read(blob(pulled.path(), module)).unwrap(), fs::read(filter_wasm()).unwrap());
}

#[test]
fn the_same_module_gives_the_same_bytes() {
    let again = TempDir::new().unwrap();
    write(again.path());
    let sums = |folder: &Path| fs::read_to_string(folder.join("SHA256SUMS")).unwrap();
    assert_eq!(sums(again.path()), sums(release()));
    let checked = Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(release()).output();
    let checked = checked.unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    assert!(sums(release()).lines().count() > 10);
}

#[test]
fn the_bill_of_materials_names_what_cargo_lock_has_with_its_checksum() {
    let bill = json(&release().join("envoy_idempotency.cdx.json"));
    assert_eq!((bill["bomFormat"].as_str(), bill["specVersion"].as_str()), (Some("CycloneDX"), Some("1.5")));
    let subject = &bill["metadata"]["component"];
    assert_eq!((subject["name"].as_str(), subject["version"].as_str()), (Some(NAME), Some(VERSION)));
    assert_eq!(subject["hashes"][0]["content"], sha256_hex(&fs::read(filter_wasm()).unwrap()));
    let lock = fs::read_to_string(repository().join("Cargo.lock")).unwrap();
    let mut named = BTreeSet::new();
    for component in bill["components"].as_array().unwrap() {
        let field = |name: &str| component[name].as_str().unwrap_or_default();
        assert!(component["licenses"][0]["expression"].as_str().is_some_and(|licence| !licence.is_empty()));
        if let Some(checksum) = component["hashes"][0]["content"].as_str() {
            let (name, version) = (field("name"), field("version"));
            let entry = format!("name = \"{name}\"\nversion = \"{version}\"\n");
            let (_, rest) = lock.split_once(&entry).unwrap_or_else(|| panic!("Cargo.lock has no {name} {version}"));
            assert!(rest.split("[[").next().unwrap().contains(checksum), "{name}");
        }
        named.insert(field("name").to_owned());
    }
    // What Cargo.toml says that the module is made of, and what comes with the compiler.
    let manifest = fs::read_to_string(repository().join("Cargo.toml")).unwrap();
    let (_, wanted) = manifest.split_once("\n[dependencies]\n").unwrap();
    let wanted = wanted.split("\n[").next().unwrap().lines();
    let wanted: Vec<_> = wanted.filter_map(|line| line.split_once(" = ")).map(|(name, _)| name.to_owned()).collect();
    assert!(wanted.len() > 5);
    for name in wanted.iter().map(String::as_str).chain(["rust-std", "wasi-libc"]) {
        assert!(named.contains(name), "{name} is not in {named:?}");
    }
    // What only the tests want is not in it.
    assert!(!named.contains("tempfile") && !named.contains("proptest"));
    let licences = fs::read_to_string(release().join("envoy_idempotency.licences.txt")).unwrap();
    for name in named.iter().filter(|name| *name != "rust-std") {
        assert!(licences.contains(name.as_str()), "no licence of {name}");
    }
}

#[test]
fn the_version_stands_in_the_module() {
    let module = fs::read(filter_wasm()).unwrap();
    let sections = Parser::new(0).parse_all(&module).filter_map(|payload| match payload.unwrap() {
        Payload::CustomSection(section) if section.name() == "version" => Some(section.data().to_owned()),
        _ => None,
    });
    assert_eq!(sections.collect::<Vec<_>>(), [VERSION.as_bytes()]);
}

#[test]
fn nothing_in_it_tells_where_or_by_whom_it_was_built() {
    let home = std::env::var("HOME").unwrap();
    let cargo_home = std::env::var("CARGO_HOME").unwrap_or_else(|_| format!("{home}/.cargo"));
    let repository = repository().display().to_string();
    let names = [&format!("{home}/"), &cargo_home, &repository, "/home/", ".cargo/", "index.crates.io", "rustup"];
    let mut folders = vec![release().to_owned()];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = fs::read(&path).unwrap();
            for name in names {
                let is_there = bytes.windows(name.len()).any(|part| part == name.as_bytes());
                assert!(!is_there, "{} holds {name:?}", path.display());
            }
        }
    }
}
