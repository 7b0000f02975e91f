//! A real registry, and what copies images to it and from it.
//!
//! One rule: images go there as users send them, by `skopeo`; nothing is put into its folder.
//! It does not know what an image holds.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::client::Request;
use crate::ports::Port;
use crate::process::{Process, tail};
use crate::wait::{PATIENCE, wait_for};

/// A running `docker-registry` that wants no password.
#[derive(Debug)]
pub struct Registry {
    _process: Process,
    // Dropped after the process has ended.
    port: Port,
    _folder: TempDir,
}

impl Registry {
    /// Starts one that is empty.
    #[track_caller]
    pub fn start() -> Registry {
        let folder = TempDir::with_prefix("envoy-idempotency-registry-").expect("a temporary folder");
        let port = Port::unshared();
        let file = folder.path().join("registry.yaml");
        let storage = folder.path().join("images");
        let config = format!(
            "version: 0.1\nlog: {{ level: warn }}\nstorage: {{ filesystem: {{ rootdirectory: {} }} }}\nhttp: {{ addr: {} }}\n",
            storage.display(),
            port.addr(),
        );
        fs::write(&file, config).expect("the folder can be written");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&file);
        let process = Process::start("the registry", command, &folder.path().join("registry.log"))
            .unwrap_or_else(|error| panic!("docker-registry cannot be started ({error}): `make test` installs it."));
        let started = wait_for("the registry serves", PATIENCE, || {
            let answer = Request::new(port.addr(), "GET", "/v2/").try_send();
            answer.is_ok_and(|answer| answer.status == 200).then_some(())
        });
        if let Err(message) = started {
            panic!("{message} Its log ends:\n{}", tail(&process.log()));
        }
        Registry { _process: process, port, _folder: folder }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// Sends the only image of an OCI layout there under this name and tag.
    #[track_caller]
    pub fn push(&self, layout: &Path, name: &str) {
        let to = format!("docker://{}/{name}", self.addr());
        skopeo(&["copy", "--dest-tls-verify=false", &format!("oci:{}", layout.display()), &to]);
    }

    /// Fetches an image into a folder: its manifest and its blobs.
    #[track_caller]
    pub fn pull(&self, name: &str, folder: &Path) {
        let from = format!("docker://{}/{name}", self.addr());
        skopeo(&["copy", "--src-tls-verify=false", &from, &format!("dir:{}", folder.display())]);
    }
}

#[track_caller]
fn skopeo(arguments: &[&str]) {
    // Which signatures are wanted stands in no file of this machine.
    let output = Command::new("skopeo").arg("--insecure-policy").args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("skopeo cannot be started ({error}): `make test` installs it."));
    assert!(output.status.success(), "skopeo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
