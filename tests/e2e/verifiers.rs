//! What stands in front of the filter on other people's gateways, as it comes: filters that verify who is asking, and
//! that take away or swap what the client has shown.
//!
//! Its one rule: two callers never get one answer, and a request that passes without protection says why.
//! It does not know jwt_authn and oauth2 (files of their own), nor what a verifier does with a credential.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::LazyLock;
use std::thread;

use harness::gateway::{cluster, hcm, set_endpoint};
use harness::{Ledger, Request, Response, SharedWorld, World};
use serde_json::{Value, json};

use crate::check::{refused, replays, said, shown};
use crate::worlds::{Shared, add_routes};
use crate::{callers, signatures, verifiers_jwt, verifiers_oauth2};

/// Every neighbour in front of a filter with `{}`: the first segment of a path chooses the neighbour.
pub fn by_default() -> Shared {
    static WORLD: LazyLock<World> = LazyLock::new(|| World::with(json!({}), |options| options.mutate(stand)));
    Shared::new(&WORLD)
}

/// Every neighbour in front of the rules of [`document`]: the second segment of a path chooses the rule.
pub fn by_rules() -> Shared {
    static WORLD: LazyLock<World> = LazyLock::new(|| World::with(document(), |options| options.mutate(stand)));
    Shared::new(&WORLD)
}

/// One rule for each way to say who is asking.
pub fn document() -> Value {
    let rule = |name: &str, policy: Value| {
        let path = json!({ "template": format!("/{{neighbour}}/{name}/**") });
        json!({ "name": name, "match": { "methods": ["POST"], "path": path }, "policy": policy })
    };
    let caller = |name: &str, part: Value| rule(name, json!({ "scope": { "caller": [part] } }));
    let verified = ["metadata", "filter_metadata", "envoy.filters.http.jwt_authn", "payload", "sub"];
    json!({ "rules": [
        caller("claim", json!({ "jwt_claim": "sub" })),
        caller("client", json!({ "header": "x-client" })),
        caller("jwt-payload", json!({ "header": "x-jwt-payload" })),
        caller("key", json!({ "header": "x-api-key" })),
        caller("property", json!({ "property": verified })),
        caller("scheme", json!({ "header": "authorization", "schemes": ["Acme"] })),
        caller("session", json!({ "cookie": "BearerToken" })),
        caller("signer", json!({ "signer": "authorization" })),
        caller("sub", json!({ "header": "x-sub" })),
        caller("token", json!({ "header": "x-token" })),
        caller("typo", json!({ "property": ["metadata", "filter_metadata", "no.such.filter", "sub"] })),
        caller("user", json!({ "header": "x-user" })),
        caller("verified", json!({ "jwt_claim": "sub" })),
        rule("no-query", json!({ "scope": { "caller": [{ "jwt_claim": "sub" }] }, "fingerprint": { "query": false } })),
        rule("required", json!({ "key": { "required": true } })),
        rule("required-claim", json!({ "key": { "required": true }, "scope": { "caller": [{ "jwt_claim": "sub" }] } })),
        rule("share", json!({ "scope": { "anonymous": "share" } })),
    ] })
}

/// Puts the neighbours in front of the filter, each on the routes of its own alone.
pub fn stand(tree: &mut Value) {
    let mut helpers = cluster(tree, "payments").clone();
    helpers["name"] = json!("helpers");
    helpers["load_assignment"]["cluster_name"] = json!("helpers");
    set_endpoint(&mut helpers, *HELPERS);
    let resources = &mut tree["static_resources"];
    resources["clusters"].as_array_mut().expect("clusters is a list").push(helpers);
    resources["secrets"] = verifiers_oauth2::secrets();
    let mut filters = vec![verifiers_jwt::filter(&verifiers_jwt::providers())];
    for (name, kind, mut config) in neighbours() {
        config["@type"] = json!(format!("type.googleapis.com/envoy.extensions.filters.http.{kind}"));
        filters.push(json!({ "name": name, "disabled": true, "typed_config": config }));
        let on = json!({ "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": {} });
        let route = json!({
            "match": { "prefix": format!("/{name}/") },
            "route": { "cluster": "payments" },
            "typed_per_filter_config": { name: on },
        });
        add_routes(tree, vec![route]);
    }
    hcm(tree)["http_filters"].as_array_mut().expect("http_filters is a list").splice(0..0, filters);
}

/// Each by the first segment of its paths, its kind, and its settings.
fn neighbours() -> Vec<(&'static str, &'static str, Value)> {
    let keys = |header: &str, forwarding: Value| {
        json!({
            "credentials": [{ "key": "alice", "client": "alice" }, { "key": "bob", "client": "bob" }],
            "key_sources": [{ "header": header }],
            "forwarding": forwarding,
        })
    };
    let authorizing = |answer: &str| {
        json!({ "http_service": {
            "server_uri": { "uri": "http://helpers", "cluster": "helpers", "timeout": "5s" },
            "path_prefix": format!("/authorize/{answer}"),
            "authorization_response": { "allowed_upstream_headers": { "patterns": [{ "exact": "x-user" }] } },
        } })
    };
    let lua = |code: &str| json!({ "default_source_code": { "inline_string": code } });
    let users = json!({ "inline_string": format!("alice:{SHA_OF_SECRET}\nbob:{SHA_OF_SECRET}") });
    vec![
        ("api-key", "api_key_auth.v3.ApiKeyAuth", keys("authorization", json!({}))),
        ("api-key-header", "api_key_auth.v3.ApiKeyAuth", keys("x-api-key", json!({}))),
        (
            "api-key-hidden",
            "api_key_auth.v3.ApiKeyAuth",
            keys("authorization", json!({ "hide_credentials": true, "header": "x-client" })),
        ),
        ("api-key-header-hidden", "api_key_auth.v3.ApiKeyAuth", keys("x-api-key", json!({ "hide_credentials": true }))),
        ("basic", "basic_auth.v3.BasicAuth", json!({ "users": users, "forward_username_header": "x-user" })),
        ("ext-authz", "ext_authz.v3.ExtAuthz", authorizing("adds")),
        ("ext-authz-removing", "ext_authz.v3.ExtAuthz", authorizing("removes")),
        ("lua", "lua.v3.Lua", lua(SWAPS)),
        (
            "header-mutation",
            "header_mutation.v3.HeaderMutation",
            json!({ "mutations": { "request_mutations": [{ "remove": "authorization" }] } }),
        ),
        ("oauth2", "oauth2.v3.OAuth2", verifiers_oauth2::config("oauth2", false)),
        ("oauth2-forwarding", "oauth2.v3.OAuth2", verifiers_oauth2::config("oauth2-forwarding", true)),
        ("verifier", "lua.v3.Lua", lua(signatures::VERIFIER)),
    ]
}

/// Takes the token and says whose it was.
const SWAPS: &str = r#"
function envoy_on_request(handle)
  local token = handle:headers():get("authorization")
  handle:headers():remove("authorization")
  handle:headers():replace("x-user", token:match("^Bearer (%a+)"))
end
"#;

/// `secret`, as `htpasswd -s` writes it.
const SHA_OF_SECRET: &str = "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=";

/// Where the neighbours ask: the keys of the issuer, the tokens of oauth2, and who may do what.
pub static HELPERS: LazyLock<SocketAddr> = LazyLock::new(|| {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free loopback port");
    let addr = listener.local_addr().expect("a bound listener has an address");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // An error is a peer that went away.
            thread::spawn(move || help(stream));
        }
    });
    addr
});

/// Answers one request and closes.
fn help(mut stream: TcpStream) -> std::io::Result<()> {
    let (mut request, mut piece) = (String::new(), [0; 4096]);
    let is_whole = |request: &str| {
        let (head, body) = request.split_once("\r\n\r\n")?;
        let length = field(head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        (body.len() >= length).then_some(())
    };
    while is_whole(&request).is_none() {
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            count => request.push_str(&String::from_utf8_lossy(&piece[..count])),
        }
    }
    let target = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let (more, body) = match target.split('/').nth(1) {
        Some("keys") => (String::new(), callers::key_set().to_string()),
        Some("tokens") => (String::new(), verifiers_oauth2::tokens(&request)),
        _ => {
            let user = field(&request, "authorization").and_then(|token| token.strip_prefix("Bearer "));
            let user = user.and_then(|token| token.split('-').next()).unwrap_or_default();
            let removes = target.starts_with("/authorize/removes");
            let removed = if removes { "x-envoy-auth-headers-to-remove: authorization\r\n" } else { "" };
            (format!("x-user: {user}\r\n{removed}"), String::new())
        }
    };
    let (kind, length) = ("content-type: application/json", body.len());
    write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\n{kind}\r\ncontent-length: {length}\r\n{more}\r\n{body}")
}

/// A header of a request that is one text.
fn field<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    let lines = request.lines().filter_map(|line| line.split_once(':'));
    lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
}

/// Both tries of one caller, then both of the other: each executes once and gets its own answer again.
#[track_caller]
pub fn kept_apart(ledger: &Ledger, callers: [[Request; 2]; 2]) {
    let path = callers[0][0].path().to_owned();
    let firsts = callers.each_ref().map(|[first, _]| first.send());
    for first in &firsts {
        assert!(said(first).starts_with("executed;stored=?1;attempt=1;"), "{path}: {}", shown(first));
    }
    for (first, [_, again]) in firsts.iter().zip(&callers) {
        replays(&again.send(), first);
    }
    assert_eq!(ledger.entries_for(&path).len(), 2, "{path}");
}

/// Every request of every caller executes, and its answer says that it was not protected.
#[track_caller]
pub fn never_mixed<'a>(ledger: &Ledger, requests: impl IntoIterator<Item = &'a Request>) {
    for request in requests {
        let before = ledger.entries_for(request.path()).len();
        let answer = request.send();
        unprotected(&answer);
        let entries = ledger.entries_for(request.path());
        assert_eq!(entries.len(), before + 1, "{}: {}", request.path(), shown(&answer));
    }
}

/// The request has passed, and says why it was not protected.
#[track_caller]
pub fn unprotected(answer: &Response) {
    assert_eq!((answer.status, said(answer)), (201, "bypassed;reason=no-caller"), "{}", shown(answer));
}

/// Two callers, each with two tokens.
fn with_tokens(pay: &Request) -> [[Request; 2]; 2] {
    [["alice-1", "alice-2"], ["bob-1", "bob-2"]]
        .map(|tokens| tokens.map(|token| pay.clone().caller(format!("Bearer {token}"))))
}

/// Two callers, each with one token.
fn with_one_token(pay: &Request) -> [[Request; 2]; 2] {
    ["alice", "bob"].map(|token| [0, 1].map(|_| pay.clone().caller(format!("Bearer {token}"))))
}

#[test]
fn behind_api_key_auth_callers_are_kept_apart_by_their_keys() {
    let (world, by_rules) = (by_default(), by_rules());
    kept_apart(&world.ledger, with_one_token(&world.post("/api-key/apart").key("k").body("ten")));
    let pay = by_rules.post("/api-key-header/key/apart").anonymous().key("k").body("ten");
    let pays = ["alice", "bob"].map(|key| [0, 1].map(|_| pay.clone().header("x-api-key", key)));
    kept_apart(&by_rules.ledger, pays);
}

#[test]
fn behind_api_key_auth_that_hides_keys_callers_are_never_mixed() {
    let (world, by_rules) = (by_default(), by_rules());
    let pay = world.post("/api-key-hidden/mixed").key("k").body("ten");
    never_mixed(&world.ledger, with_one_token(&pay).as_flattened());
    saw_no_token(&world.ledger, "/api-key-hidden/mixed");
    for path in ["/api-key-header-hidden/key/mixed", "/api-key-header-hidden/user/mixed"] {
        let pay = by_rules.post(path).anonymous().key("k").body("ten");
        let pays = ["alice", "bob"].map(|key| [0, 1].map(|_| pay.clone().header("x-api-key", key)));
        never_mixed(&by_rules.ledger, pays.as_flattened());
    }
    // What it writes for the key tells whose it was, whatever the client writes there.
    let pay = by_rules.post("/api-key-hidden/client/apart").key("k").body("ten");
    let [alice, bob] = with_one_token(&pay);
    kept_apart(&by_rules.ledger, [alice, bob.map(|pay| pay.header("x-client", "alice"))]);
}

#[test]
fn behind_api_key_auth_a_header_of_keys_that_the_scope_does_not_read_tells_no_caller() {
    let world = by_default();
    let pay = world.post("/api-key-header/unread").anonymous().key("k").body("ten");
    let pays = ["alice", "bob", "alice"].map(|key| pay.clone().header("x-api-key", key));
    never_mixed(&world.ledger, &pays);
}

#[test]
fn behind_basic_auth_callers_are_kept_apart_by_their_names() {
    let (world, by_rules) = (by_default(), by_rules());
    for (world, path) in [(&world, "/basic/apart"), (&by_rules, "/basic/user/apart")] {
        let pay = world.post(path).key("k").body("ten");
        // alice:secret and bob:secret
        let pays = ["Basic YWxpY2U6c2VjcmV0", "Basic Ym9iOnNlY3JldA=="];
        kept_apart(&world.ledger, pays.map(|shown| [0, 1].map(|_| pay.clone().caller(shown))));
        // bob:wrong
        let refused = pay.caller("Basic Ym9iOndyb25n").send();
        assert_eq!((refused.status, said(&refused)), (401, ""), "{}", shown(&refused));
    }
}

#[test]
fn behind_ext_authz_that_adds_a_user_callers_are_kept_apart_by_token_and_by_user() {
    let (world, by_rules) = (by_default(), by_rules());
    kept_apart(&world.ledger, with_one_token(&world.post("/ext-authz/apart").key("k").body("ten")));
    let pay = by_rules.post("/ext-authz/user/apart").key("k").body("ten");
    let [alice, bob] = with_tokens(&pay);
    kept_apart(&by_rules.ledger, [alice, bob.map(|pay| pay.header("x-user", "alice"))]);
}

#[test]
fn behind_ext_authz_that_removes_the_token_callers_are_never_mixed_and_its_user_keeps_them_apart() {
    swapped("ext-authz-removing");
}

#[test]
fn behind_a_lua_that_swaps_the_token_for_a_user_callers_are_never_mixed_and_its_user_keeps_them_apart() {
    swapped("lua");
}

/// Of a neighbour that takes the token and says in `x-user` whose it was.
#[track_caller]
fn swapped(neighbour: &str) {
    let (world, by_rules) = (by_default(), by_rules());
    let pay = |world: &World, rest: &str| world.post(&format!("/{neighbour}/{rest}")).key("k").body("ten");
    never_mixed(&world.ledger, with_one_token(&pay(&world, "mixed")).as_flattened());
    saw_no_token(&world.ledger, &format!("/{neighbour}/mixed"));
    never_mixed(&by_rules.ledger, with_one_token(&pay(&by_rules, "claim/mixed")).as_flattened());
    let required = pay(&by_rules, "required/mixed");
    for request in with_one_token(&required).as_flattened() {
        refused(&request.send(), 401, "caller-missing", None);
    }
    assert_eq!(by_rules.ledger.entries_for(required.path()).len(), 0);
    kept_apart(&by_rules.ledger, with_tokens(&pay(&by_rules, "user/apart")));
}

#[test]
fn behind_a_header_mutation_that_removes_the_token_callers_are_never_mixed() {
    let world = by_default();
    let pay = world.post("/header-mutation/mixed").key("k").body("ten");
    never_mixed(&world.ledger, with_one_token(&pay).as_flattened());
    saw_no_token(&world.ledger, "/header-mutation/mixed");
}

#[test]
fn a_token_that_routes_remove_is_there_for_the_filter() {
    let world = World::with(json!({}), |options| {
        options.mutate(|tree| {
            let routes = &mut hcm(tree)["route_config"];
            let removed = json!(["authorization"]);
            routes["request_headers_to_remove"] = removed.clone();
            routes["virtual_hosts"][0]["request_headers_to_remove"] = removed.clone();
            routes["virtual_hosts"][0]["routes"][0]["request_headers_to_remove"] = removed;
        })
    });
    kept_apart(&world.ledger, with_one_token(&world.post("/pay").key("k").body("ten")));
    saw_no_token(&world.ledger, "/pay");
}

#[test]
fn a_property_misspelt_protects_nothing_and_the_log_says_which_rule_so_once_a_minute() {
    let world = by_rules();
    let pay = world.post("/none/typo/pay").key("k").body("ten");
    for _ in 0..5 {
        never_mixed(&world.ledger, with_one_token(&pay).as_flattened());
    }
    says_once_that_no_caller_was_seen(&world, "typo");
}

/// The log has one line, and no more, of this rule's requests that show no caller.
#[track_caller]
pub fn says_once_that_no_caller_was_seen(world: &World, rule: &str) {
    let said = format!("no request of rule \"{rule}\" has shown a caller");
    world.gateway.wait_for_log(&said);
    let log = world.gateway.log();
    assert_eq!(log.matches(&said).count(), 1, "{log}");
}

/// The service got requests on this path, and none with a token.
#[track_caller]
pub fn saw_no_token(ledger: &Ledger, path: &str) {
    let entries = ledger.entries_for(path);
    assert!(!entries.is_empty() && entries.iter().all(|entry| entry.header("authorization").is_none()), "{entries:?}");
}

#[test]
fn gateways_on_one_redis_keep_apart_what_a_swap_leaves_and_mix_nothing_without() {
    let redis = harness::Redis::start();
    let world = SharedWorld::with(redis, &[document(), document()], |options| options.mutate(stand));
    let at_both = |[first, again]: [Request; 2]| [first, again.to(world.other())];
    let pay = |path: &str| world.post(path).key("k").body("ten");
    kept_apart(&world.ledger, with_tokens(&pay("/lua/user/apart")).map(at_both));
    kept_apart(&world.ledger, with_one_token(&pay("/none/share/apart")).map(at_both));
    never_mixed(&world.ledger, with_one_token(&pay("/lua/claim/mixed")).map(at_both).as_flattened());
    never_mixed(&world.ledger, with_one_token(&pay("/header-mutation/user/mixed")).map(at_both).as_flattened());
    verifiers_jwt::on_redis(&world);
    assert_eq!(world.counted("store_failures.transport"), 0);
}
