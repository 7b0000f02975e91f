//! The upstream: nginx, which answers at once and keeps every connection.
//!
//! One rule: it costs as little as a service can, so that what is in front of it is what is measured.
//! It does not know who asks.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use harness::process::{Process, tail};
use harness::{PATIENCE, Port, Request, wait_for};

use crate::machine::Machine;

/// A running nginx.
#[derive(Debug)]
pub struct Nginx {
    port: Port,
    _process: Process,
}

impl Nginx {
    /// Starts it and returns when it answers.
    pub fn start(machine: &Machine, folder: &Path) -> Result<Nginx, String> {
        let port = Port::reserve();
        let config = folder.join("nginx.conf");
        fs::write(&config, configuration(&port, folder))
            .map_err(|error| format!("{} cannot be written: {error}.", config.display()))?;
        let mut command = machine.measuring("nginx");
        command.arg("-p").arg(folder).args(["-e", "stderr", "-c"]).arg(&config);
        let process = Process::start("nginx", command, &folder.join("nginx.log"))
            .map_err(|error| format!("nginx cannot be started: {error}."))?;
        wait_for("nginx answers", PATIENCE, || {
            let answer = || Request::new(port.addr(), "GET", "/").try_send().ok();
            if process.ended().is_some() { Some(None) } else { answer().map(Some) }
        })?
        .ok_or_else(|| format!("nginx did not start. Its log ends:\n{}", tail(&process.log())))?;
        Ok(Nginx { port, _process: process })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }
}

fn configuration(port: &Port, folder: &Path) -> String {
    let (addr, folder, body) = (port.addr(), folder.display(), body());
    format!(
        "daemon off;
master_process off;
worker_processes 1;
pid {folder}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen {addr} reuseport;
        default_type application/json;
        location /fail {{ return 503; }}
        location / {{
            if ($request_method = GET) {{ return 200 '{body}'; }}
            return 201 '{body}';
        }}
    }}
}}
"
    )
}

/// What it answers to everything: JSON of [`BODY_BYTES`].
pub fn body() -> String {
    let (head, tail) = (r#"{"id":"pay_1","note":""#, r#""}"#);
    format!("{head}{}{tail}", "n".repeat(BODY_BYTES - head.len() - tail.len()))
}

/// How long bodies are, in both directions.
pub const BODY_BYTES: usize = 256;
