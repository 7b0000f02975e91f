//! The table of evidence: for each way in which a request can fail, what Envoy says, and what the filter makes of it.
//!
//! Its one rule: the table in `docs/guarantees.md` is what the Envoy that runs says here; `UPDATE_EXPECT=1` writes it.
//! It does not know how the filter reads any of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use harness::gateway::{cluster, hcm, hcm_of, repository, set_endpoint, set_pipe};
use harness::{Ledger, Options, Port, Processor, Request, Trouble, Troublemaker, World};
use serde_json::{Value, json};

use crate::check::{executed, is_refusal, not_stored, refused, replays, said, shown};
use crate::worlds::{Shared, rule};

/// One way in which a request can come to its end.
#[derive(Clone, Copy)]
struct Case {
    /// As the table has it.
    name: &'static str,
    /// `x-route`, which chooses the cluster, the limits and the filters that it meets.
    route: &'static str,
    /// What the service is told to do.
    steering: (&'static str, &'static str),
    /// Whether it takes a connection that another request has used before.
    is_second: bool,
}

const NONE: (&str, &str) = ("x-test", "none");

const fn case(name: &'static str, route: &'static str) -> Case {
    Case { name, route, steering: NONE, is_second: false }
}

impl Case {
    const fn told(self, name: &'static str, value: &'static str) -> Case {
        Case { steering: (name, value), ..self }
    }

    const fn second(self) -> Case {
        Case { is_second: true, ..self }
    }
}

const CASES: [Case; 43] = [
    case("no route", "none"),
    case("unknown cluster", "absent"),
    case("no healthy host", "unhealthy"),
    case("no host", "hostless"),
    case("connection refused", "refused"),
    case("connection refused, Unix socket", "socket-refused"),
    case("connect time-out", "silent"),
    case("TLS to a service without TLS", "plain"),
    case("circuit breaker: pending requests", "full"),
    case("circuit breaker: requests", "narrow"),
    case("closed before the request was read", "closes"),
    case("reset while the request was read", "resets"),
    case("closed after the request", "tcp").told("x-test-reset", "before"),
    case("reset after the request", "tcp").told("x-test-reset", "before-rst"),
    case("closed after the request, Unix socket", "socket").told("x-test-reset", "before"),
    case("closed on a reused connection", "tcp").told("x-test-reset", "before").second(),
    case("response time-out", "impatient").told("x-test-hold", "never"),
    case("per-try time-out", "per-try").told("x-test-hold", "never"),
    case("idle time-out of the stream", "idle").told("x-test-hold", "never"),
    case("longest duration of a stream", "lasting").told("x-test-hold", "never"),
    case("longest duration of an upstream stream", "lasting-upstream").told("x-test-hold", "never"),
    case("Envoy tried twice", "retrying").told("x-test-reset", "before"),
    case("Envoy tried twice, refused", "refused-twice"),
    case("HTTP/2: RST_STREAM, REFUSED_STREAM", "h2-refuses"),
    case("HTTP/2: RST_STREAM, INTERNAL_ERROR", "h2-resets"),
    case("HTTP/2: GOAWAY below the request", "h2-goaway"),
    case("HTTP/2: closed on a reused connection", "h2-closes").second(),
    case("HTTP/2: GOAWAY, then closed on a reused connection", "h2-goes").second(),
    case("a rate limit behind", "limited").second(),
    case("an injected fault behind", "faulty"),
    case("a veto of the request's head, 403", "veto-head"),
    case("a veto of the request's body, 403", "veto-body"),
    case("a veto of the response's head, 403", "veto-response"),
    case("a veto of the response's head, 503", "veto-response-503"),
    case("a veto of the response's head, 200", "veto-response-200"),
    case("a veto of the response's body, 403", "veto-response-body"),
    case("a page of custom_response for 422", "page").told("x-test-status", "422"),
    case("a lua behind works and answers 201", "lua-201"),
    case("a lua behind works and answers 422", "lua-422"),
    case("a lua behind holds a response that is too large", "hold").told("x-test-body-size", "9000000"),
    case("direct_response, 200", "direct-200"),
    case("direct_response, 422", "direct-422"),
    case("a redirect in the route", "moved"),
];

const EXECUTIONS: [&str; 2] = ["inline", "shielded"];

/// What lives as long as the gateway.
struct Stage {
    world: World,
    _others: (Port, std::net::TcpListener, Vec<Troublemaker>, Processor),
}

/// `envoy/shielded.yaml`, where everything under `/inline/` runs inline, with the ways of [`CASES`].
fn world() -> Shared {
    static STAGE: LazyLock<Stage> = LazyLock::new(|| {
        let (ledger, refused, veto) = (Ledger::start_with_socket(), Port::reserve(), Processor::start());
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let troubles = [
            ("closes", Trouble::ClosesAtOnce),
            ("resets", Trouble::ResetsAfterHead),
            ("h2-refuses", Trouble::ResetsStream(7)),
            ("h2-resets", Trouble::ResetsStream(2)),
            ("h2-goaway", Trouble::RefusesAndGoesAway),
            ("h2-closes", Trouble::ClosesWhenReused),
            ("h2-goes", Trouble::GoesAwayWhenReused),
        ]
        .map(|(name, trouble)| (name, Troublemaker::start(trouble)));
        let mut ports: BTreeMap<_, _> = troubles.iter().map(|(name, one)| (*name, one.addr())).collect();
        ports.extend([("tcp", ledger.addr()), ("refused", refused.addr()), ("veto", veto.addr())]);
        ports.insert("silent", silent.local_addr().unwrap());
        let socket = ledger.socket().to_owned();
        let options = Options::file("shielded.yaml", ledger.addr()).concurrency(1).configuration(json!({
            "policy": { "ttl_s": 1800, "execution": { "kind": "shielded", "cluster": "shielded" } },
            "rules": [rule("/inline/", json!({ "execution": { "kind": "inline" } })), rule("/", json!({}))],
        }));
        let gateway = harness::Gateway::start(options.mutate(move |tree| {
            let clusters = clusters(cluster(tree, "payments"), &ports, &socket);
            tree["static_resources"]["clusters"].as_array_mut().unwrap().extend(clusters);
            let log = hcm(tree)["access_log"][0].clone();
            for (listener, execution) in EXECUTIONS.into_iter().enumerate() {
                let manager = hcm_of(&mut tree["static_resources"]["listeners"][listener]);
                let filters = manager["http_filters"].as_array_mut().unwrap();
                let router = filters.len() - 1;
                filters.splice(router..router, filters_behind());
                manager["route_config"]["virtual_hosts"][0]["routes"] = routes(execution).into();
                manager["route_config"]["validate_clusters"] = json!(false);
                let logs = &mut manager["access_log"];
                *logs = [logs.as_array().cloned().unwrap_or_default(), vec![account(execution, &log)]].concat().into();
            }
        }));
        let others = (refused, silent, troubles.into_iter().map(|(_, one)| one).collect(), veto);
        Stage { world: World { gateway, ledger }, _others: others }
    });
    Shared::new(&STAGE.world)
}

fn typed(name: &str, mut config: Value) -> Value {
    config["@type"] = json!(format!("type.googleapis.com/{name}"));
    config
}

/// A cluster for each way that needs one, made of the service's own.
fn clusters(plain: &Value, ports: &BTreeMap<&'static str, std::net::SocketAddr>, socket: &Path) -> Vec<Value> {
    let to = |name: &str, port: &str, change: &dyn Fn(&mut Value)| {
        let mut one = plain.clone();
        one["name"] = json!(name);
        set_endpoint(&mut one, ports[port]);
        change(&mut one);
        one
    };
    let protocol = |options: Value| {
        let name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        json!({ name: typed(name, options) })
    };
    let over_tls = |one: &mut Value| {
        let context = typed("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", json!({}));
        one["transport_socket"] = json!({ "name": "envoy.transport_sockets.tls", "typed_config": context });
    };
    let limit =
        |name: &'static str| move |one: &mut Value| one["circuit_breakers"]["thresholds"] = json!([{ name: 0 }]);
    let on_http2 = |one: &mut Value| {
        let options = json!({ "explicit_http_config": { "http2_protocol_options": {} } });
        one["typed_extension_protocol_options"] = protocol(options);
    };
    let mut all = vec![
        to("tcp", "tcp", &|_| ()),
        to("socket", "tcp", &|one| set_pipe(one, socket)),
        to("socket-refused", "tcp", &|one| set_pipe(one, &socket.with_file_name("absent"))),
        to("refused", "refused", &|_| ()),
        to("unhealthy", "tcp", &|one| {
            one["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["health_status"] = json!("UNHEALTHY");
            one["common_lb_config"]["healthy_panic_threshold"] = json!({ "value": 0 });
        }),
        to("hostless", "tcp", &|one| one["load_assignment"] = json!({ "cluster_name": "hostless", "endpoints": [] })),
        to("silent", "silent", &|one| {
            over_tls(one);
            one["connect_timeout"] = json!("0.5s");
        }),
        to("plain", "tcp", &over_tls),
        to("full", "tcp", &limit("max_pending_requests")),
        to("narrow", "tcp", &limit("max_requests")),
        to("lasting-upstream", "tcp", &|one| {
            one["typed_extension_protocol_options"] = protocol(json!({
                "common_http_protocol_options": { "max_stream_duration": "0.5s" },
                "explicit_http_config": { "http_protocol_options": {} },
            }));
        }),
        to("closes", "closes", &|_| ()),
        to("resets", "resets", &|_| ()),
    ];
    let http2 = ["h2-refuses", "h2-resets", "h2-goaway", "h2-closes", "h2-goes", "veto"];
    all.extend(http2.map(|name| to(name, name, &on_http2)));
    all
}

/// The filters between this one and the router; a route has them do something.
fn filters_behind() -> Vec<Value> {
    let work = |status: u16| {
        format!(
            "function envoy_on_request(handle)\n\
             handle:httpCall(\"tcp\", {{ [\":method\"] = \"POST\", [\":path\"] = handle:headers():get(\":path\") .. \"/lua\",\n\
             [\":authority\"] = \"ledger\" }}, \"ten\", 5000)\n\
             handle:respond({{ [\":status\"] = \"{status}\" }}, \"by lua\")\nend"
        )
    };
    let hold = "function envoy_on_response(handle)\n handle:body()\nend".to_owned();
    let source = |code: String| json!({ "inline_string": code });
    let scripts = json!({ "lua-201": source(work(201)), "lua-422": source(work(422)), "hold": source(hold) });
    let skip = json!({ "request_header_mode": "SKIP", "response_header_mode": "SKIP" });
    let judge = json!({ "envoy_grpc": { "cluster_name": "veto" }, "timeout": "10s" });
    let veto = json!({ "grpc_service": judge, "processing_mode": skip, "message_timeout": "10s" });
    [
        (
            "limit",
            typed("envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit", json!({ "stat_prefix": "limit" })),
        ),
        ("fault", typed("envoy.extensions.filters.http.fault.v3.HTTPFault", json!({}))),
        ("page", typed("envoy.extensions.filters.http.custom_response.v3.CustomResponse", json!({}))),
        ("veto", typed("envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor", veto)),
        ("lua", typed("envoy.extensions.filters.http.lua.v3.Lua", json!({ "source_codes": scripts }))),
    ]
    .map(|(name, config)| json!({ "name": name, "typed_config": config }))
    .into()
}

/// What `x-route` chooses, for the requests that are executed so.
fn routes(execution: &str) -> Vec<Value> {
    let route = |name: &str, key: &str, action: Value| {
        let chosen = json!({ "name": "x-route", "string_match": { "exact": name } });
        json!({ "match": { "prefix": format!("/{execution}/"), "headers": [chosen] }, key: action })
    };
    let to = |name: &str| route(name, "route", json!({ "cluster": name }));
    let well = |name: &str, limits: Value| {
        let mut action = json!({ "cluster": "tcp" });
        action.as_object_mut().unwrap().extend(limits.as_object().unwrap().clone());
        route(name, "route", action)
    };
    let behind = |name: &str, filter: &str, config: Value| {
        let mut one = well(name, json!({}));
        one["typed_per_filter_config"] = json!({ filter: config });
        one
    };
    let veto = |name: &str, mode: Value, status: u16| {
        let metadata = json!([{ "key": "x-veto", "value": status.to_string() }]);
        let overrides = json!({ "processing_mode": mode, "grpc_initial_metadata": metadata });
        behind(
            name,
            "veto",
            typed("envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute", json!({ "overrides": overrides })),
        )
    };
    let script = |name: &str| {
        behind(name, "lua", typed("envoy.extensions.filters.http.lua.v3.LuaPerRoute", json!({ "name": name })))
    };
    let only = |request: &str, response: &str, bodies: [&str; 2]| {
        json!({
            "request_header_mode": request, "response_header_mode": response,
            "request_body_mode": bodies[0], "response_body_mode": bodies[1],
        })
    };
    let on_response = || only("SKIP", "SEND", ["NONE", "NONE"]);
    let bucket = json!({ "max_tokens": 1, "tokens_per_fill": 1, "fill_interval": "3600s" });
    let always = json!({ "default_value": { "numerator": 100, "denominator": "HUNDRED" } });
    let abort = json!({ "http_status": 503, "percentage": { "numerator": 100, "denominator": "HUNDRED" } });
    let clusters = [
        "tcp",
        "socket",
        "socket-refused",
        "refused",
        "absent",
        "unhealthy",
        "hostless",
        "silent",
        "plain",
        "full",
        "narrow",
        "lasting-upstream",
        "closes",
        "resets",
        "h2-refuses",
        "h2-resets",
        "h2-goaway",
        "h2-closes",
        "h2-goes",
    ];
    let mut all: Vec<Value> = clusters.map(to).into();
    all.extend([
        well("impatient", json!({ "timeout": "0.5s" })),
        well("per-try", json!({ "retry_policy": { "per_try_timeout": "0.5s", "num_retries": 0 } })),
        well("idle", json!({ "timeout": "0s", "idle_timeout": "0.5s" })),
        well("lasting", json!({ "timeout": "0s", "max_stream_duration": { "max_stream_duration": "0.5s" } })),
        well("retrying", json!({ "retry_policy": { "retry_on": "reset", "num_retries": 1 } })),
        route("refused-twice", "route", json!({
            "cluster": "refused", "retry_policy": { "retry_on": "connect-failure", "num_retries": 1 },
        })),
        behind("limited", "limit", typed("envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit", json!({
            "stat_prefix": "limited", "token_bucket": bucket, "filter_enabled": always, "filter_enforced": always,
        }))),
        behind("faulty", "fault", typed("envoy.extensions.filters.http.fault.v3.HTTPFault", json!({ "abort": abort }))),
        behind("page", "page", typed("envoy.extensions.filters.http.custom_response.v3.CustomResponse", page())),
        veto("veto-head", only("SEND", "SKIP", ["NONE", "NONE"]), 403),
        veto("veto-body", only("SKIP", "SKIP", ["STREAMED", "NONE"]), 403),
        veto("veto-response", on_response(), 403),
        veto("veto-response-503", on_response(), 503),
        veto("veto-response-200", on_response(), 200),
        veto("veto-response-body", only("SKIP", "SKIP", ["NONE", "STREAMED"]), 403),
        script("lua-201"),
        script("lua-422"),
        script("hold"),
        route("direct-200", "direct_response", json!({ "status": 200, "body": { "inline_string": "maintenance" } })),
        route("direct-422", "direct_response", json!({ "status": 422, "body": { "inline_string": "no" } })),
        route("moved", "redirect", json!({ "path_redirect": "/elsewhere" })),
    ]);
    all
}

/// What `custom_response` is to put in the place of a 422.
fn page() -> Value {
    let input = typed("envoy.type.matcher.v3.HttpResponseStatusCodeMatchInput", json!({}));
    let policy = json!({ "status_code": 422, "body": { "inline_string": "sorry" } });
    let policy = typed("envoy.extensions.http.custom_response.local_response_policy.v3.LocalResponsePolicy", policy);
    json!({ "custom_response_matcher": { "matcher_list": { "matchers": [{
        "predicate": { "single_predicate": {
            "input": { "name": "status", "typed_config": input }, "value_match": { "exact": "422" },
        } },
        "on_match": { "action": { "name": "page", "typed_config": policy } },
    }] } } })
}

/// Has a listener write down what Envoy says of each request.
fn account(execution: &str, log: &Value) -> Value {
    let mut log = log.clone();
    let owner = "%FILTER_STATE(envoy.filters.network.http_connection_manager.local_reply_owner:PLAIN)%";
    log["typed_config"]["log_format"] = json!({
        "text_format_source": { "inline_string": format!(
            "{execution}\t%PATH(NQ)%\t%RESPONSE_CODE_DETAILS%\t%RESPONSE_FLAGS%\t%CEL(upstream.request_attempt_count)%\t\
             %UPSTREAM_WIRE_BYTES_SENT%\t%UPSTREAM_LOCAL_ADDRESS%\t{owner}\n"
        ) },
        "formatters": [{
            "name": "envoy.formatter.cel",
            "typed_config": typed("envoy.extensions.formatter.cel.v3.Cel", json!({})),
        }],
    });
    log
}

/// What Envoy says of a request that has ended, and what the filter has made of it, as the table has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Evidence {
    details: String,
    flags: String,
    attempts: String,
    is_sent: bool,
    has_address: bool,
    owner: String,
    /// The fate of the key, inline and shielded.
    fates: [&'static str; 2],
}

/// Has each case happen, inline and shielded.
fn measured() -> &'static [(Case, Evidence)] {
    static MEASURED: LazyLock<Vec<(Case, Evidence)>> = LazyLock::new(|| {
        let world = world();
        let measure = |(number, case): (usize, Case)| {
            let [inline, shielded] = EXECUTIONS.map(|execution| happens(&world, number, case, execution));
            let evidence = Evidence { fates: [inline.fates[0], shielded.fates[0]], ..inline.clone() };
            assert_eq!(Evidence { fates: inline.fates, ..shielded }, inline, "{}, on both ways", case.name);
            (case, evidence)
        };
        CASES.into_iter().enumerate().map(measure).collect()
    });
    &MEASURED
}

fn happens(world: &World, number: usize, case: Case, execution: &str) -> Evidence {
    let path = format!("/{execution}/case-{number}");
    let pay = world.post(&path).key("k").header(case.steering.0, case.steering.1);
    if case.is_second {
        let first = world.post(&format!("{path}/first")).key("k").header("x-route", case.route).body("ten").send();
        assert!(first.status < 300, "{}", shown(&first));
    }
    // What the client gets of it is Envoy's affair.
    let answer = pay.header("x-route", case.route).body("ten").try_send();
    let account = world.gateway.wait_for_access_log(&format!("{execution}\t{path}\t"));
    let [_, _, details, flags, attempts, sent, address, owner] = account.split('\t').collect::<Vec<_>>()[..] else {
        panic!("{account}");
    };
    let fate = fate(&world.post(&path).key("k").header("x-route", "tcp"));
    let promised = answer.as_ref().ok().map(said).filter(|line| !line.is_empty());
    let is_kept =
        |line: &str| line.contains(&format!("outcome={fate}")) || (fate == "stored" && line.contains("stored=?1"));
    assert!(promised.is_none_or(is_kept), "{} is {fate}, and the client heard {promised:?}", case.name);
    // What follows names addresses, and differs from run to run.
    let details = details.split_once('|').map_or(details.to_owned(), |(word, _)| format!("{word}}}"));
    Evidence {
        details,
        flags: flags.to_owned(),
        attempts: attempts.to_owned(),
        is_sent: sent != "0",
        has_address: address != "-",
        owner: owner.to_owned(),
        fates: [fate; 2],
    }
}

/// What has become of the key: another payload tells whether it is free, and the same one the rest.
#[track_caller]
fn fate(pay: &Request) -> &'static str {
    let other = pay.clone().body("twenty").send();
    if said(&other).starts_with("executed;") {
        return "released";
    }
    refused(&other, 409, "mismatch", None);
    let again = pay.clone().body("ten").send();
    match said(&again) {
        line if line.starts_with("executed;stored=?1;attempt=2;") => "retry",
        line if line.starts_with("replayed;attempt=1;") => "stored",
        _ if is_refusal(&again, "not-replayable") => "completed",
        _ if is_refusal(&again, "outcome-unknown") => "unknown",
        _ => panic!("{}", shown(&again)),
    }
}

/// The versions of Envoy that the table tells of, as `make matrix` has them, and the one that runs.
fn versions(world: &World) -> (Vec<String>, String) {
    let makefile = fs::read_to_string(repository().join("Makefile")).unwrap();
    let all = makefile.lines().find_map(|line| line.strip_prefix("ENVOYS := ")).unwrap();
    (all.split(' ').map(str::to_owned).collect(), world.gateway.version())
}

/// The cells of each row, by case and by version of Envoy.
type Table = BTreeMap<(usize, String), String>;

const BEGIN: &str = "<!-- The table: written by `UPDATE_EXPECT=1 make matrix` from what Envoy says. -->\n";
const END: &str = "<!-- The end of the table. -->\n";
const HEAD: &str = "| what happens | details | flags | attempts | sent | address | answered by | inline | shielded | Envoy |\n\
                    |---|---|---|---|---|---|---|---|---|---|\n";

fn cells(evidence: &Evidence) -> String {
    let Evidence { details, flags, attempts, is_sent, has_address, owner, fates: [inline, shielded] } = evidence;
    let code = |text: &str| if text.is_empty() || text == "-" { "-".to_owned() } else { format!("`{text}`") };
    let (sent, address) = (if *is_sent { "yes" } else { "0" }, if *has_address { "yes" } else { "-" });
    let (details, flags, owner) = (code(details), code(flags), code(owner));
    format!("{details} | {flags} | {attempts} | {sent} | {address} | {owner} | {inline} | {shielded}")
}

fn read(text: &str, all: &[String]) -> Table {
    let mut table = Table::new();
    for line in text.lines() {
        let row = line.strip_prefix("| ").and_then(|line| line.strip_suffix(" |"));
        let row =
            row.and_then(|row| row.split_once(" | ")).and_then(|(name, row)| Some((name, row.rsplit_once(" | ")?)));
        let Some((name, (cells, versions))) = row else { continue };
        let Some(number) = CASES.iter().position(|case| case.name == name) else { continue };
        for version in all.iter().filter(|one| versions == "all" || versions.split(", ").any(|named| named == *one)) {
            table.insert((number, version.clone()), cells.to_owned());
        }
    }
    table
}

/// Versions of one mind share a row.
fn written(table: &Table, all: &[String]) -> String {
    let mut text = HEAD.to_owned();
    for (number, case) in CASES.iter().enumerate() {
        let mut rows: Vec<(&String, Vec<&str>)> = Vec::new();
        for version in all {
            let Some(cells) = table.get(&(number, version.clone())) else { continue };
            match rows.iter_mut().find(|(known, _)| *known == cells) {
                Some((_, versions)) => versions.push(version),
                None => rows.push((cells, vec![version])),
            }
        }
        for (cells, versions) in rows {
            let versions = if versions.len() == all.len() { "all".to_owned() } else { versions.join(", ") };
            text.push_str(&format!("| {} | {cells} | {versions} |\n", case.name));
        }
    }
    text
}

#[test]
fn what_envoy_says_and_what_the_filter_makes_of_it_is_the_table_of_the_guarantees() {
    let page = repository().join("docs/guarantees.md");
    let text = fs::read_to_string(&page).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (known, after) = rest.split_once(END).unwrap();
    let (all, running) = versions(&world());
    assert!(all.contains(&running), "the table tells nothing of Envoy {running}");
    let mut table = read(known, &all);
    for (number, (_, evidence)) in measured().iter().enumerate() {
        table.insert((number, running.clone()), cells(evidence));
    }
    let table = written(&table, &all);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&page, [before, BEGIN, &table, END, after].concat()).unwrap();
        return;
    }
    let changed: Vec<_> = table.lines().filter(|line| !known.contains(line)).collect();
    assert!(
        table == known,
        "Envoy {running} says otherwise than docs/guarantees.md (UPDATE_EXPECT=1 writes):\n{changed:#?}"
    );
}

#[test]
fn an_attempt_is_counted_before_a_byte_of_it_is_sent_and_no_attempt_is_a_zero() {
    for (case, evidence) in measured() {
        let attempts: u64 = evidence.attempts.parse().unwrap_or_else(|_| panic!("{}: {evidence:?}", case.name));
        assert!(attempts > 0 || !(evidence.is_sent || evidence.has_address), "{}: {evidence:?}", case.name);
    }
}

#[test]
fn a_stream_that_the_service_refused_frees_the_key_at_once_and_one_that_it_reset_does_not() {
    let world = world();
    for execution in EXECUTIONS {
        for route in ["h2-refuses", "h2-goaway"] {
            let pay = world.post(&format!("/{execution}/stream-{route}")).key("k");
            not_stored(&pay.clone().header("x-route", route).body("ten").send(), 503, 1, "released");
            let first = pay.clone().header("x-route", "tcp").body("twenty").send();
            executed(&first, 2);
            assert_eq!(world.ledger.entries_for(pay.path()).len(), 1);
        }
        let pay = world.post(&format!("/{execution}/stream-reset")).key("k").body("ten");
        not_stored(&pay.clone().header("x-route", "h2-resets").send(), 503, 1, "unknown");
        assert!(is_refusal(&pay.header("x-route", "tcp").send(), "outcome-unknown"));
    }
}

#[test]
fn what_a_filter_behind_has_done_and_answered_itself_is_done_once() {
    let world = world();
    for execution in EXECUTIONS {
        let pay = world.post(&format!("/{execution}/work")).key("k").header("x-route", "lua-201").body("ten");
        let first = pay.send();
        executed(&first, 1);
        assert_eq!((first.status, first.text().as_str()), (201, "by lua"));
        replays(&pay.send(), &first);
        assert_eq!(world.ledger.entries_for(&format!("{}/lua", pay.path())).len(), 1);
        // It has refused the work, so a corrected payload may follow.
        let pay = world.post(&format!("/{execution}/refused")).key("k").header("x-route", "lua-422");
        not_stored(&pay.clone().body("ten").send(), 422, 1, "released");
        not_stored(&pay.body("twenty").send(), 422, 2, "released");
    }
}

#[test]
fn an_answer_that_stands_in_the_route_is_judged_by_its_status_and_a_redirect_frees_the_key() {
    let world = world();
    for execution in EXECUTIONS {
        let pay = world.post(&format!("/{execution}/route-200")).key("k").header("x-route", "direct-200").body("ten");
        let first = pay.send();
        executed(&first, 1);
        assert_eq!(first.status, 200);
        replays(&pay.send(), &first);
        // Where the client is sent, the same key must not meet the redirect again.
        let pay = world.post(&format!("/{execution}/route-moved")).key("k").body("ten");
        not_stored(&pay.clone().header("x-route", "moved").send(), 301, 1, "released");
        executed(&pay.header("x-route", "tcp").send(), 2);
        let pay = world.post(&format!("/{execution}/route-422")).key("k").header("x-route", "direct-422");
        not_stored(&pay.clone().body("ten").send(), 422, 1, "released");
        not_stored(&pay.body("twenty").send(), 422, 2, "released");
    }
}

#[test]
fn a_veto_frees_the_key_only_where_no_service_was_asked() {
    let world = world();
    for execution in EXECUTIONS {
        let vetoes = [("veto-head", 0), ("veto-body", 1), ("veto-response", 1), ("veto-response-503", 1)];
        for (route, asked) in vetoes {
            let pay = world.post(&format!("/{execution}/{route}")).key("k");
            let vetoed = pay.clone().header("x-route", route).body("ten").send();
            assert!([403, 503].contains(&vetoed.status), "{}", shown(&vetoed));
            let expected = if asked == 0 { "released" } else { "unknown" };
            assert_eq!(fate(&pay.clone().header("x-route", "tcp")), expected, "{execution}, {route}");
            // Of the one whose body is vetoed it depends on the moment how much reaches the service.
            let executions = world.ledger.entries_for(pay.path()).len();
            assert!(route == "veto-body" || executions == 1, "{execution}, {route}: {executions}");
        }
    }
}
