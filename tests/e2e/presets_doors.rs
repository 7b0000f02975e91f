//! The presets of clients that have a key in a place of their own: calls, mutations, signatures, links, jobs, forms.
//!
//! Its one rule: a retry differs from the first try in all that the client writes anew, and in nothing else.
//! It does not know libraries: tests/clients plays those of these doors that have one.

use harness::gateway::hcm;
use harness::ledger::base64;
use harness::{Gateway, Ledger, Options, Request, Response, World, send_all};
use serde_json::{Value, json};

use crate::check::{not_stored, refused, replays, said};
use crate::presets::{document, send_once_it_waits, world};
use crate::signatures::VERIFIER;
use crate::worlds::start;

#[track_caller]
fn executed(answer: &Response, attempt: u32) {
    let line = said(answer);
    assert!(line.starts_with(&format!("executed;stored=?1;attempt={attempt};")), "{line}");
}

/// The service answers this request with 200 and this JSON.
fn answering(request: Request, body: &Value) -> Request {
    let request = request.header("content-type", "application/json").header("x-test-status", "200");
    let request = request.header("x-test-header", "content-type: application/json");
    request.header("x-test-body-base64", base64(body.to_string()))
}

#[test]
fn a_json_rpc_call_and_a_batch_of_them_run_once_by_their_ids() {
    let world = world("json-rpc", "local.yaml");
    let result = |id: &str| json!({ "jsonrpc": "2.0", "id": id, "result": "paid" });
    let call = |id: &str, amount: u32| json!({ "jsonrpc": "2.0", "id": id, "method": "pay", "params": [amount] });
    let send = |call: &Value, answer: &Value| answering(world.post("/rpc"), answer).body(call.to_string()).send();
    let first = send(&call("u-1", 10), &result("u-1"));
    executed(&first, 1);
    replays(&send(&call("u-1", 10), &result("u-1")), &first);
    refused(&send(&call("u-1", 11), &result("u-1")), 409, "mismatch", None);
    let batch = json!([call("u-2", 1), call("u-3", 2)]);
    let answers = json!([result("u-3"), result("u-2")]);
    let both = send(&batch, &answers);
    executed(&both, 1);
    replays(&send(&batch, &answers), &both);
    // An error is no result: the same call may run again at once.
    let error = json!({ "jsonrpc": "2.0", "id": "u-4", "error": { "code": -32000, "message": "busy" } });
    not_stored(&send(&call("u-4", 5), &error), 200, 1, "retry");
    executed(&send(&call("u-4", 5), &result("u-4")), 2);
    let notification = json!({ "jsonrpc": "2.0", "method": "log", "params": [] });
    assert_eq!(said(&send(&notification, &json!({}))), "bypassed;reason=no-key");
    // A client that has a key of its own need not have good ids.
    let keyed =
        |amount| answering(world.post("/rpc"), &result("1")).key("k").body(call("1", amount).to_string()).send();
    let first = keyed(10);
    executed(&first, 1);
    replays(&keyed(10), &first);
    assert_eq!(world.ledger.entries_for("/rpc").len(), 6);
}

#[test]
fn a_tool_call_of_mcp_runs_once_in_its_session() {
    let world = world("mcp", "local.yaml");
    let call = |id: u32, amount: u32| {
        let params = json!({ "name": "pay", "arguments": { "amount": amount } });
        json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params })
    };
    let result = |id: u32| json!({ "jsonrpc": "2.0", "id": id, "result": { "content": [] } });
    let in_session = |session: &str| {
        let request = world.post("/mcp").anonymous().header("accept", "application/json, text/event-stream");
        request.header("mcp-session-id", session)
    };
    let send = |session: &str, id: u32, amount: u32| {
        answering(in_session(session), &result(id)).body(call(id, amount).to_string()).send()
    };
    let first = send("s-1", 2, 10);
    executed(&first, 1);
    replays(&send("s-1", 2, 10), &first);
    refused(&send("s-1", 2, 11), 422, "mismatch", None);
    executed(&send("s-2", 2, 10), 1);
    executed(&send("s-1", 3, 10), 1);
    let opening = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {} });
    let opened = answering(world.post("/mcp").anonymous(), &result(0)).body(opening.to_string()).send();
    assert_eq!(said(&opened), "bypassed;reason=no-key");
    // A tool that fails says so in its result. An error says that there is none, and the call may run again.
    let failed = json!({ "jsonrpc": "2.0", "id": 5, "result": { "content": [], "isError": true } });
    let first = answering(in_session("s-1"), &failed).body(call(5, 10).to_string()).send();
    executed(&first, 1);
    replays(&answering(in_session("s-1"), &failed).body(call(5, 10).to_string()).send(), &first);
    let error = json!({ "jsonrpc": "2.0", "id": 6, "error": { "code": -32603, "message": "busy" } });
    not_stored(&answering(in_session("s-1"), &error).body(call(6, 10).to_string()).send(), 200, 1, "retry");
    executed(&send("s-1", 6, 10), 2);
    // A server without sessions.
    let keyed = || answering(world.post("/mcp").key("k"), &result(1)).body(call(1, 10).to_string()).send();
    let first = keyed();
    executed(&first, 1);
    replays(&keyed(), &first);
    // A tool that answers in events has run, and that is all a retry can be told.
    let streamed = in_session("s-1").header("content-type", "application/json").header("x-test-sse", "3");
    let streamed = streamed.body(call(4, 10).to_string());
    let events = streamed.send();
    assert!(said(&events).starts_with("executed;stored=?0;attempt=1;outcome=completed"), "{}", said(&events));
    refused(&streamed.send(), 409, "not-replayable", None);
    // What the client answers has an id of the server's, which counts for itself.
    for answer in [json!({ "result": { "action": "accept" } }), json!({ "error": { "code": -1, "message": "no" } })] {
        let mut answer = answer;
        answer["id"] = json!(2);
        let told = in_session("s-1").header("x-test-status", "202").body(answer.to_string()).send();
        assert_eq!((told.status, said(&told)), (202, "bypassed;reason=no-key"));
    }
    assert_eq!(world.ledger.entries_for("/mcp").len(), 11);
}

#[test]
fn a_graphql_mutation_runs_once_and_one_that_was_not_begun_leaves_its_key() {
    let world = world("graphql", "local.yaml");
    let mutation = json!({ "query": "mutation($a: Int!) { pay(amount: $a) { id } }", "variables": { "a": 10 } });
    let paid = json!({ "data": { "pay": { "id": "p-1" } } });
    let send = |key: &str, body: &Value, answer: &Value| {
        answering(world.post("/graphql"), answer).key(key).body(body.to_string()).send()
    };
    let first = send("k-1", &mutation, &paid);
    executed(&first, 1);
    replays(&send("k-1", &mutation, &paid), &first);
    let invalid = json!({ "errors": [{ "message": "Unknown field" }] });
    not_stored(&send("k-2", &json!({ "query": "mutation { pya }" }), &invalid), 200, 1, "released");
    executed(&send("k-2", &mutation, &paid), 2);
    // With data beside them, and with data that is null, the mutation was begun.
    for (key, data) in [("k-3", json!({ "pay": null })), ("k-4", Value::Null)] {
        let begun = json!({ "errors": [{ "message": "declined" }], "data": data });
        let first = send(key, &mutation, &begun);
        executed(&first, 1);
        replays(&send(key, &mutation, &begun), &first);
    }
    let mut extended = mutation.clone();
    extended["extensions"] = json!({ "idempotencyKey": "k-5" });
    let extended = || answering(world.post("/graphql"), &paid).body(extended.to_string()).send();
    let first = extended();
    executed(&first, 1);
    replays(&extended(), &first);
    let query = answering(world.post("/graphql"), &json!({ "data": {} })).body(r#"{"query":"{ payments }"}"#).send();
    assert_eq!(said(&query), "bypassed;reason=no-key");
}

#[test]
fn a_repeatable_request_of_oasis_runs_once_and_its_result_is_repeated() {
    let world = world("repeatability", "local.yaml");
    let send = |id: &str, sent: &str, body: &str| {
        let request = world.post("/repeatable/orders").header("repeatability-request-id", id);
        let request = request.header("x-test-header", "repeatability-result: accepted");
        request.header("repeatability-first-sent", sent).body(body).send()
    };
    let (id, sent) = ("2bc97f7e-c1bd-4b40-9dbb-6b8f4f0d2a31", "Tue, 26 Mar 2019 16:06:51 GMT");
    let first = send(id, sent, "ten");
    executed(&first, 1);
    let again = send(id, sent, "ten");
    replays(&again, &first);
    assert_eq!(again.header("repeatability-result"), Some("accepted"));
    refused(&send(id, sent, "eleven"), 422, "mismatch", None);
    refused(&send(id, "Tue, 26 Mar 2019 16:06:52 GMT", "ten"), 422, "mismatch", None);
    assert_eq!(said(&world.post("/repeatable/orders").body("ten").send()), "bypassed;reason=no-key");
}

/// What a library of Stripe sends; tests/clients plays two of them.
#[test]
fn a_charge_of_stripes_libraries_is_made_once_and_answered_in_their_statuses() {
    let world = world("stripe", "shielded.yaml");
    let charge = |body: &str| {
        let request = world.post("/v1/charges").caller("Bearer sk_test_1").key("4e8b2c1a-61f5-4c36-8d5e-0a1f4d0a0b77");
        request.header("content-type", "application/x-www-form-urlencoded").body(body)
    };
    let gone = start(&world, &charge(""), "amount=10&currency=eur", "charge");
    // It has waited for long enough and comes again: 409, which it repeats.
    drop(gone);
    refused(&charge("amount=10&currency=eur").send(), 409, "in-flight", Some("1"));
    world.ledger.open("charge");
    let mut answer = charge("amount=10&currency=eur").send();
    while answer.status == 409 {
        refused(&answer, 409, "in-flight", Some("1"));
        answer = charge("amount=10&currency=eur").send();
    }
    assert!(said(&answer).starts_with("replayed;attempt=1;"), "{}", said(&answer));
    refused(&charge("amount=11&currency=eur").send(), 400, "mismatch", None);
    assert_eq!(world.ledger.entries_for("/v1/charges").len(), 1);
}

#[test]
fn behind_a_verifier_a_call_that_is_signed_anew_runs_once_for_its_signer() {
    let ledger = Ledger::start();
    let options = Options::file("local.yaml", ledger.addr()).configuration(document("sigv4"));
    let options = options.mutate(|tree| {
        let lua = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua";
        let verifier = json!({ "@type": lua, "default_source_code": { "inline_string": VERIFIER } });
        let filters = hcm(tree)["http_filters"].as_array_mut().expect("http_filters is a list");
        filters.insert(0, json!({ "name": "verifier", "typed_config": verifier }));
    });
    let world = World { gateway: Gateway::start(options), ledger };
    let signed = |id: &str, word: &str, attempt: u32| {
        let scope = format!("{id}/20261128/eu-central-1/pay/aws4_request");
        let how = format!("Credential={scope}, SignedHeaders=host;x-amz-date, Signature={word}-{attempt}");
        let request = world.post("/").caller(format!("AWS4-HMAC-SHA256 {how}"));
        let request = request.header("x-amz-date", format!("20261128T00000{attempt}Z"));
        request.header("amz-sdk-request", format!("attempt={attempt}; max=3"))
    };
    let call = |id: &str, word: &str, attempt: u32, target: &str| {
        let request = signed(id, word, attempt).header("content-type", "application/x-amz-json-1.0");
        request.header("x-amz-target", target).body(r#"{"ClientRequestToken":"t-1"}"#).send()
    };
    let first = call("alice", "wonderland", 1, "Pay.Start");
    executed(&first, 1);
    replays(&call("alice", "wonderland", 2, "Pay.Start"), &first);
    refused(&call("alice", "wonderland", 3, "Pay.Stop"), 409, "mismatch", None);
    executed(&call("bob", "builder", 1, "Pay.Start"), 1);
    assert_eq!(call("alice", "guessed", 4, "Pay.Start").status, 403);
    // An API without a token of its own: the library's number of the call.
    let plain = |attempt| {
        let request = signed("alice", "wonderland", attempt).header("amz-sdk-invocation-id", "i-1");
        request.header("content-type", "application/x-www-form-urlencoded").body("Action=Pay").send()
    };
    let first = plain(1);
    executed(&first, 1);
    replays(&plain(2), &first);
    assert_eq!(world.ledger.entries_for("/").len(), 3);
}

#[test]
fn a_link_that_is_opened_twice_pays_once_for_all_who_have_it() {
    let world = world("payment-link", "shielded.yaml");
    let open = |link: &str| world.request("GET", link).anonymous();
    let first = open("/pay/t-1").send();
    executed(&first, 1);
    // From another browser, which has cookies, another language and a campaign behind the link.
    let shared = open("/pay/t-1?utm_source=mail").header("cookie", "sid=you").header("accept-language", "de").send();
    replays(&shared, &first);
    executed(&open("/pay/t-2").send(), 1);
    let conditional = open("/pay/t-2").header("if-none-match", "\"page\"").send();
    refused(&conditional, 409, "mismatch", None);
    let clicks = vec![open("/pay/t-3"); 3];
    let pages = send_all(&clicks);
    assert!(pages.iter().all(|page| page.body == pages[0].body));
    // The person who clicks again gives the first page up.
    drop(start(&world, &open("/pay/t-4"), "", "link"));
    let page = send_once_it_waits(&world, &open("/pay/t-4"), "link");
    assert!(said(&page).starts_with("replayed;attempt=1;"), "{}", said(&page));
    assert_eq!(said(&world.request("HEAD", "/pay/t-5").send()), "", "a look at the link is not the link");
    assert_eq!(said(&open("/pay/t-1/receipt").send()), "");
    // What may have paid is not tried again.
    not_stored(&open("/pay/t-6").header("x-test-status", "502").send(), 502, 1, "unknown");
    refused(&open("/pay/t-6").send(), 409, "outcome-unknown", None);
    for (link, count) in [("/pay/t-1", 1), ("/pay/t-3", 1), ("/pay/t-4", 1), ("/pay/t-6", 1)] {
        assert_eq!(world.ledger.entries_for(link).len(), count, "{link}");
    }
}

#[test]
fn a_job_is_started_once_and_its_place_is_told_again() {
    let world = world("async-job", "local.yaml");
    let begin = |key: &str, body: &str| {
        let request = world.post("/v1/jobs").key(key).header("content-type", "application/json");
        let request = request.header("x-test-status", "202").header("x-test-header", "location: /v1/jobs/7");
        request.header("x-test-header", "retry-after: 5").body(body)
    };
    let first = begin("k", r#"{"report": 1, "year": 2026}"#).send();
    executed(&first, 1);
    let again = begin("k", r#"{"year": 2026, "report": 1.0}"#).send();
    replays(&again, &first);
    let told = (again.status, again.header("location"), again.header("retry-after"));
    assert_eq!(told, (202, Some("/v1/jobs/7"), Some("5")));
    // Asking is no part of it: each time the service says how far the job has come.
    let ask = || world.request("GET", "/v1/jobs/7").header("idempotency-key", "k").send();
    let looks = [ask(), ask()];
    assert!(looks.iter().all(|look| said(look).is_empty()) && looks[0].body != looks[1].body);
    let full = || world.post("/v1/jobs").key("k-2").header("content-type", "application/json").body("{}");
    not_stored(&full().header("x-test-status", "503").send(), 503, 1, "retry");
    executed(&full().header("x-test-status", "202").send(), 2);
    refused(&world.post("/v1/jobs").body("{}").send(), 400, "key-missing", None);
}

/// The service takes each token once, and would refuse the form of a second click.
#[test]
fn a_one_time_token_is_spent_once_and_the_second_click_gets_the_page_of_the_first() {
    let world = world("form-post", "shielded.yaml");
    let post = |token: &str| {
        let request = world.post("/checkout/once").header("content-type", "application/x-www-form-urlencoded");
        let request = request.header("cookie", "sid=me").header("x-test-first-status", "303,403");
        request.header("x-test-header", "location: /thanks").body(format!("checkout_token={token}")).send()
    };
    let first = post("spent");
    executed(&first, 1);
    let again = post("spent");
    replays(&again, &first);
    assert_eq!((again.status, again.header("location")), (303, Some("/thanks")));
    assert_eq!(world.ledger.entries_for("/checkout/once").len(), 1);
    // Another token does reach the service, which has the last word on it.
    not_stored(&post("stale"), 403, 1, "released");
}
