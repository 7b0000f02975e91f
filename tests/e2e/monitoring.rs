//! The alerts and the dashboard that are shipped, on a real Prometheus that scrapes real gateways.
//!
//! Its one rule: what fires, fires because of traffic and faults, by the shipped expressions; their time alone runs sixty
//! times as fast, so that a minute is a second.
//! It does not know what an operator makes of an alert.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use harness::gateway::repository;
use harness::{Dialect, PATIENCE, Prometheus, Redis, Request, SharedWorld, World, send_all, wait_until};
use serde_json::{Value, json};

/// What clients send and nobody else may see.
const KEY: &str = "key-of-a-client";
const BODY: &str = "body of a client";
const TOKEN: &str = "token-of-a-client";
/// The pause between two rounds of requests, so that they are traffic and no load.
const PACE: Duration = Duration::from_millis(100);

#[test]
fn the_alerts_are_valid_and_tested_on_both_sides_of_their_thresholds() {
    for arguments in [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]] {
        let output = Command::new("promtool").args(arguments).current_dir(repository().join("deploy")).output();
        let output = output.expect("`make test` installs promtool");
        assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    }
    let tests = read("deploy/alerts_test.yaml");
    for alert in alerts() {
        let (_, rest) =
            tests.split_once(&format!("alertname: {alert}\n")).unwrap_or_else(|| panic!("{alert} has no test"));
        assert!(!rest.is_empty());
        let of_it = tests.split("alertname: ").filter(|part| part.starts_with(&format!("{alert}\n")));
        let (silent, fires): (Vec<&str>, Vec<&str>) = of_it.partition(|part| part.contains("exp_alerts: []"));
        assert!(!silent.is_empty() && !fires.is_empty(), "{alert} is tested on one side only");
    }
}

#[test]
fn every_alert_leads_to_a_page_that_says_what_to_do() {
    let page = read("docs/operations.md");
    for alert in alerts() {
        let (_, section) =
            page.split_once(&format!("\n### {alert}\n")).unwrap_or_else(|| panic!("{alert} has no section"));
        let section = section.split("\n#").next().unwrap_or_default();
        for part in ["**Metric**", "**Log**", "**Decide**"] {
            assert!(section.contains(part), "{alert} has no {part}");
        }
        assert!(
            read("deploy/alerts.yaml").contains(&format!("docs/operations.md#{}\n", alert.to_lowercase())),
            "{alert}"
        );
    }
}

#[test]
fn each_alert_fires_when_what_it_is_about_happens_and_is_silent_until_then() {
    let began = Instant::now();
    let gateways = Gateways::start();
    let rules = sixty_times_as_fast(&read("deploy/alerts.yaml"));
    let prometheus = Prometheus::scraping(
        &[("embedded", &gateways.embedded.gateway), ("shared", &gateways.shared.gateways[0])],
        &rules,
    );

    let mut round = 0;
    wait_until("Prometheus has seen quiet traffic for a while", 4 * PATIENCE, || {
        round += 1;
        gateways.work_in_peace(round);
        assert_eq!(prometheus.alerts(), [], "nothing is wrong");
        prometheus.sum(r#"count(count_over_time(up{job="envoy"}[5m]) > 12)"#) == 2.0
    });
    assert_eq!(prometheus.query(r#"sum by (instance) (idempotency_requests_total{outcome="executed"}) > 0"#).len(), 2);

    gateways.go_wrong();
    let (all, mut fired) = (alerts(), BTreeSet::new());
    wait_until("every alert has fired", 6 * PATIENCE, || {
        round += 1;
        gateways.work_in_trouble(round);
        let alerts = prometheus.alerts().into_iter();
        fired.extend(alerts.filter(|(_, state)| state == "firing").map(|(alert, _)| alert));
        all.iter().all(|alert| fired.contains(alert)) || {
            println!("{:.0} s: {fired:?} {:?}", began.elapsed().as_secs_f64(), prometheus.alerts());
            false
        }
    });

    for (panel, query) in queries() {
        let found = prometheus.query(&in_a_test(&query));
        assert!(found.iter().any(|(_, value)| value.is_finite()), "{panel}: {query} finds {found:?}");
    }
    gateways.recover();
    gateways.tell_nothing_of_clients(&prometheus);
    keep(&prometheus, began.elapsed());
}

/// A gateway with records of its own, and one with records in Redis.
struct Gateways {
    embedded: World,
    shared: SharedWorld,
}

fn document() -> Value {
    json!({
        "policy": { "lease_ms": 1000, "on_in_flight": { "action": "wait" } },
        "rules": [{ "name": "payments", "match": { "methods": ["POST"], "path": { "prefix": "/v1" } } }],
    })
}

impl Gateways {
    fn start() -> Gateways {
        let mut embedded = document();
        embedded["store"]["max_bytes"] = json!(1 << 20);
        let shared = || SharedWorld::speaking(Dialect::Resp, Redis::start(), &[document()], |options| options.lds());
        let embedded = || World::start(embedded);
        thread::scope(|scope| {
            let shared = scope.spawn(shared);
            Gateways { embedded: embedded(), shared: shared.join().expect("it starts") }
        })
    }

    fn at_embedded(&self, path: &str, key: &str) -> Request {
        self.embedded.post(path).caller(format!("Bearer {TOKEN}")).key(format!("{KEY}-{key}")).body(BODY)
    }

    fn at_shared(&self, path: &str, key: &str) -> Request {
        self.shared.post(path).caller(format!("Bearer {TOKEN}")).key(format!("{KEY}-{key}")).body(BODY)
    }

    /// Payments, repeats of payments, one that the service refuses, duplicates at once, and what no rule is about.
    fn work_in_peace(&self, round: usize) {
        thread::sleep(PACE);
        let pays: [&dyn Fn(&str) -> Request; 2] =
            [&|key| self.at_embedded("/v1/pay", &format!("{key}-{round}")), &|key| {
                self.at_shared("/v1/pay", &format!("{key}-{round}"))
            }];
        for pay in pays {
            assert_eq!([pay("again").send().status, pay("again").send().status], [201; 2]);
            assert_eq!(pay("refused").header("x-test-status", "400").send().status, 400);
            let statuses = send_all(&[pay("both"), pay("both")]).iter().map(|answer| answer.status).collect::<Vec<_>>();
            assert_eq!(statuses, [201; 2]);
        }
        self.embedded.request("GET", "/v1/pay").send();
    }

    /// A payment whose answer is lost and that is tried again, two answers that fill the table, an outcome that Redis does
    /// not hear of, and a configuration that is replaced meanwhile.
    fn go_wrong(&self) {
        let lost = self.at_embedded("/v1/lost", "lost");
        assert_eq!(lost.clone().header("x-test-status", "504").send().status, 504);
        wait_until("the lease is over", PATIENCE, || lost.send().status == 201);
        for key in ["large", "larger"] {
            let large = self.at_embedded("/v1/large", key).header("x-test-body-size", "490000");
            assert_eq!(large.send().status, 201);
        }
        let owed = self.at_shared("/v1/owed", "owed").header("x-test-hold", "owed");
        let mut owed_request = owed.open();
        owed_request.write(BODY);
        let ledger = &self.shared.ledger;
        wait_until("it has reached the service", PATIENCE, || !ledger.entries_for("/v1/owed").is_empty());
        self.shared.interposer.close();
        ledger.open("owed");
        assert_eq!(owed_request.response().status, 201);
        // Where it is owed to is gone from the configuration.
        let mut changed = document();
        changed["store"] = Dialect::Resp.store();
        changed["store"]["prefix"] = json!("elsewhere:");
        self.shared.gateways[0].update_plugin_config(&changed).unwrap();
    }

    /// Payments without a key, without a caller, and such as the store is needed for.
    fn work_in_trouble(&self, round: usize) {
        thread::sleep(PACE);
        let path = "/v1/trouble";
        let body = || self.embedded.post(path).caller(format!("Bearer {TOKEN}")).body(BODY);
        assert_eq!(body().send().status, 201);
        let nobody = self.embedded.post(path).anonymous().key(format!("{KEY}-nobody-{round}")).body(BODY);
        assert_eq!(nobody.send().status, 201);
        assert_eq!(self.at_embedded("/v1/pay", &format!("trouble-{round}")).send().status, 201);
        assert_eq!(self.at_shared("/v1/pay", &format!("trouble-{round}")).send().status, 503);
    }

    fn recover(&self) {
        self.shared.interposer.open();
        let gateway = &self.shared.gateways[0];
        wait_until("nothing is owed", PATIENCE, || gateway.stat("wasmcustom.idempotency_outbox") == 0);
        gateway.wait_for_log("the store answers again, ");
        for gauge in ["outbox_age_seconds", "draining", "breaker_open"] {
            wait_until(gauge, PATIENCE, || gateway.stat(&format!("wasmcustom.idempotency_{gauge}")) == 0);
        }
    }

    /// Neither log nor access log nor metric holds anything that clients sent, of all that was done.
    fn tell_nothing_of_clients(&self, prometheus: &Prometheus) {
        let mut told = vec![("Prometheus", prometheus.series())];
        for gateway in [&self.embedded.gateway, &self.shared.gateways[0]] {
            told.push(("the log", gateway.log()));
            told.push(("the access log", gateway.access_log()));
            told.push(("the metrics", gateway.admin("/stats/prometheus")));
            told.push(("the metrics", gateway.admin("/stats")));
        }
        for (place, told) in told {
            assert!(told.len() > 200, "{place} is all but empty");
            for secret in [KEY, BODY, TOKEN] {
                assert!(!told.contains(secret), "{place} tells {secret:?}");
            }
        }
    }
}

/// The names of all alerts.
fn alerts() -> Vec<String> {
    let rules = read("deploy/alerts.yaml");
    rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).map(str::to_owned).collect()
}

/// The rules with a second for each of their minutes.
fn sixty_times_as_fast(rules: &str) -> String {
    let faster = rules.replace("m]", "s]").replace("outbox_age_seconds) > 60\n", "outbox_age_seconds) > 1\n");
    let lines =
        faster.lines().map(|line| match line.trim().strip_prefix("for: ").and_then(|time| time.strip_suffix('m')) {
            Some(minutes) => format!("        for: {minutes}s"),
            None => line.to_owned(),
        });
    lines.collect::<Vec<_>>().join("\n")
}

/// Every query of every panel of the dashboard, with the panel's title.
fn queries() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana.json")).expect("the dashboard is JSON");
    let panels = dashboard["panels"].as_array().expect("it has panels").clone();
    let of_panel = |panel: Value| {
        let title = panel["title"].as_str().unwrap_or_default().to_owned();
        let targets = panel["targets"].as_array().expect("a panel has queries").clone();
        targets.into_iter().map(move |target| (title.clone(), target["expr"].as_str().unwrap_or_default().to_owned()))
    };
    let queries: Vec<_> = panels.into_iter().flat_map(of_panel).collect();
    assert!(queries.len() >= 15);
    queries
}

/// A query as Grafana sends it, of the time that a test takes.
fn in_a_test(query: &str) -> String {
    query.replace("$__rate_interval", "30s").replace("$rule", ".*")
}

/// Keeps what the panels show of the whole run, for the picture of the dashboard (`make dashboard`).
fn keep(prometheus: &Prometheus, time: Duration) {
    let shown = queries().into_iter().map(|(panel, query)| {
        let found = prometheus.range(&query.replace("$__rate_interval", "4s").replace("$rule", ".*"), time);
        json!({ "panel": panel, "query": query, "series": found })
    });
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dashboard.json");
    fs::write(file, Value::from(shown.collect::<Vec<_>>()).to_string()).expect("the folder of tests can be written");
}

fn read(file: &str) -> String {
    fs::read_to_string(repository().join(file)).unwrap_or_else(|error| panic!("{file} cannot be read: {error}"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
