//! Real Prometheus, which scrapes gateways.
//!
//! One rule: it has the rules that are shipped, in time that runs faster where a test says so.
//! It does not know what is measured.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::Request;
use crate::gateway::Gateway;
use crate::ports::Port;
use crate::process::{Process, tail};
use crate::wait::{PATIENCE, wait_for};

/// A running `prometheus`.
#[derive(Debug)]
pub struct Prometheus {
    _process: Process,
    // Dropped after the process has ended.
    port: Port,
    _folder: TempDir,
}

impl Prometheus {
    /// Starts one that scrapes these gateways, by these names, twice a second, and judges these rules as often.
    #[track_caller]
    pub fn scraping(gateways: &[(&str, &Gateway)], rules: &str) -> Prometheus {
        let folder = TempDir::with_prefix("envoy-idempotency-prometheus-").expect("a temporary folder");
        let port = Port::unshared();
        let targets = gateways.iter().map(
            |(name, gateway)| json!({ "targets": [gateway.admin_addr().to_string()], "labels": { "instance": name } }),
        );
        let config = json!({
            "global": { "scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms" },
            "rule_files": ["rules.yaml"],
            "scrape_configs": [{
                "job_name": "envoy",
                "metrics_path": "/stats/prometheus",
                "params": { "filter": ["idempotency"] },
                "static_configs": targets.collect::<Vec<_>>(),
            }],
        });
        let file = folder.path().join("prometheus.yaml");
        fs::write(folder.path().join("rules.yaml"), rules).expect("the folder can be written");
        fs::write(&file, config.to_string()).expect("the folder can be written");
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={}", port.addr()))
            .arg("--log.level=warn");
        let process = Process::start("Prometheus", command, &folder.path().join("prometheus.log"))
            .unwrap_or_else(|error| panic!("Prometheus cannot be started ({error}): `make test` installs it."));
        let started = wait_for("Prometheus serves", 2 * PATIENCE, || {
            let ready = Request::new(port.addr(), "GET", "/-/ready").try_send();
            ready.is_ok_and(|answer| answer.status == 200).then_some(())
        });
        if let Err(message) = started {
            panic!("{message} Its log ends:\n{}", tail(&process.log()));
        }
        Prometheus { _process: process, port, _folder: folder }
    }

    /// What a query finds now: labels and value of each series.
    #[track_caller]
    pub fn query(&self, query: &str) -> Vec<(Value, f64)> {
        let found = self.ask("query", &[("query", query)]);
        let series = found["result"].as_array().unwrap_or_else(|| panic!("{query} finds {found}"));
        let value = |one: &Value| one["value"][1].as_str().and_then(|value| value.parse().ok());
        series.iter().map(|one| (one["metric"].clone(), value(one).expect("a series has a value"))).collect()
    }

    /// The sum of what a query finds now, 0 where that is nothing.
    #[track_caller]
    pub fn sum(&self, query: &str) -> f64 {
        self.query(query).iter().map(|(_, value)| value).sum()
    }

    /// What a query found in so much time, every half second.
    #[track_caller]
    pub fn range(&self, query: &str, time: Duration) -> Value {
        let now = self.sum("vector(time())");
        let (start, end) = ((now - time.as_secs_f64()).to_string(), now.to_string());
        self.ask("query_range", &[("query", query), ("start", &start), ("end", &end), ("step", "0.5")])["result"].take()
    }

    /// The alerts that are pending or fire, with their state.
    #[track_caller]
    pub fn alerts(&self) -> Vec<(String, String)> {
        let mut alerts = self.ask("alerts", &[]);
        let text = |alert: &Value, pointer: &str| {
            alert.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let all = alerts["alerts"].take();
        all.as_array().into_iter().flatten().map(|one| (text(one, "/labels/alertname"), text(one, "/state"))).collect()
    }

    /// Every series that it has, as it was shown.
    #[track_caller]
    pub fn series(&self) -> String {
        self.ask("series", &[("match[]", r#"{__name__=~".+"}"#)]).to_string()
    }

    #[track_caller]
    fn ask(&self, what: &str, parameters: &[(&str, &str)]) -> Value {
        let encoded = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
        let query: Vec<_> =
            parameters.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
        let path = format!("/api/v1/{what}?{}", query.join("&"));
        let mut answer = Request::new(self.port.addr(), "GET", &path).send().json();
        assert_eq!(answer["status"], "success", "{parameters:?}: {answer}");
        answer["data"].take()
    }
}
