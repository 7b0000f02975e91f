//! `envoy/local.yaml` as it stands for those who have no build: the module comes from a registry.
//!
//! Its one rule: everything but where the module comes from is the shipped file's, to the letter.
//! It does not know what the settings mean.

use crate::{crates, read};

/// Where the file has the module of a build.
const LOCAL: &str = "\
                            local:
                              filename: target/wasm32-wasip1/release/envoy_idempotency.wasm
";
const CLUSTERS: &str = "\n  clusters:\n";
const HOW_TO_START: &str = "\
# `make run` and the tests start real Envoy from this very file.
#
# By hand, from the root of the repository, after `make build`:
#   .cache/envoy-1.40.0/envoy --config-path envoy/local.yaml
";

/// The file for a module with this SHA-256.
pub fn loading(sha256: &str) -> Result<String, String> {
    let file = "envoy/local.yaml";
    let mut text = String::from_utf8(read(&crates::root().join(file))?).map_err(|error| format!("{file}: {error}"))?;
    for (from, to) in [(HOW_TO_START, started()), (LOCAL, remote(sha256)), (CLUSTERS, registry())] {
        if text.matches(from).count() != 1 {
            return Err(format!("{file} must have this once:\n{from}"));
        }
        text = text.replace(from, &to);
    }
    Ok(text)
}

fn started() -> String {
    "# envoy/local.yaml with the module from a registry; REGISTRY below is where you have pushed it.\n".to_owned()
}

/// The blob that is the module itself, at a registry that asks for no token.
fn remote(sha256: &str) -> String {
    let uri = format!("http://{REGISTRY}/v2/envoy-idempotency/blobs/sha256:{sha256}");
    format!(
        "\
                            remote:
                              # Envoy fetches it at start, and takes no other bytes than these.
                              sha256: {sha256}
                              http_uri: {{ uri: \"{uri}\", cluster: registry, timeout: 30s }}
"
    )
}

fn registry() -> String {
    let (host, port) = REGISTRY.split_once(':').unwrap_or((REGISTRY, "80"));
    format!(
        "{CLUSTERS}    - name: registry
      type: STRICT_DNS
      load_assignment:
        cluster_name: registry
        endpoints:
          - lb_endpoints:
              - endpoint:
                  address:
                    socket_address: {{ address: {host}, port_value: {port} }}

"
    )
}

/// Where a registry on the same machine listens.
const REGISTRY: &str = "127.0.0.1:5000";
