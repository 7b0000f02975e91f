//! Envoy's own oauth2 in front of the filter: its clients log in as a browser would, at an issuer on this machine.
//!
//! Its one rule: two people who have logged in never get one answer, and a request that passes without protection says
//! why.
//! It does not know what an issuer asks of people: each has the code that is his name.

use harness::{Request, World};
use serde_json::{Value, json};

use crate::check::{said, shown};
use crate::verifiers::{by_default, by_rules, kept_apart, never_mixed, saw_no_token};

/// The filter on its own paths; with `forward` it shows the token upstream, which it does not do as it comes.
pub fn config(name: &str, forward: bool) -> Value {
    let exact = |path: &str| json!({ "path": { "exact": path } });
    let mut config = json!({
        "token_endpoint": { "cluster": "helpers", "uri": "http://helpers/tokens", "timeout": "5s" },
        "authorization_endpoint": "http://issuer.example.com/authorize",
        "redirect_uri": format!("http://%REQ(:authority)%/{name}/callback"),
        "redirect_path_matcher": exact(&format!("/{name}/callback")),
        "signout_path": exact(&format!("/{name}/signout")),
        "credentials": {
            "client_id": "gateway",
            "token_secret": { "name": "oauth2-token" },
            "hmac_secret": { "name": "oauth2-hmac" },
        },
    });
    if forward {
        config["forward_bearer_token"] = json!(true);
    }
    json!({ "config": config })
}

/// What the filter knows of the issuer, and what it signs its cookies with.
pub fn secrets() -> Value {
    let secret = |name: &str| {
        let text = json!({ "inline_string": format!("the {name}") });
        json!({ "name": name, "generic_secret": { "secret": text } })
    };
    json!([secret("oauth2-token"), secret("oauth2-hmac")])
}

/// The issuer's answer to a request of the filter that has a code in it.
pub fn tokens(request: &str) -> String {
    let parameters = request.lines().next_back().unwrap_or_default().split('&');
    let code = parameters.filter_map(|parameter| parameter.strip_prefix("code=")).next().unwrap_or_default();
    json!({ "access_token": format!("token-of-{code}"), "token_type": "Bearer", "expires_in": 3600 }).to_string()
}

/// The cookies of a person who has logged in.
#[track_caller]
fn log_in(world: &World, neighbour: &str, person: &str) -> String {
    let cookies = |lines: Vec<&[u8]>| {
        let pairs = lines.into_iter().map(|line| String::from_utf8_lossy(line).into_owned());
        let pairs = pairs.map(|line| line.split(';').next().unwrap_or_default().to_owned());
        pairs.filter(|pair| !pair.ends_with("=deleted")).collect::<Vec<_>>().join("; ")
    };
    let get = |path: &str| world.request("GET", path).anonymous();
    let sent_away = get(&format!("/{neighbour}/page")).send();
    assert_eq!(sent_away.status, 302, "{}", shown(&sent_away));
    let location = sent_away.header("location").unwrap_or_default();
    let state = location.split(['?', '&']).find(|parameter| parameter.starts_with("state="));
    let back = format!("/{neighbour}/callback?code={person}&{}", state.unwrap_or_default());
    let back = get(&back).header("cookie", cookies(sent_away.headers("set-cookie"))).send();
    assert_eq!(back.status, 302, "{}", shown(&back));
    cookies(back.headers("set-cookie"))
}

/// Two tries of this request by each of two people who have logged in.
#[track_caller]
fn people(world: &World, path: &str) -> [[Request; 2]; 2] {
    let neighbour = path.split('/').nth(1).unwrap_or_default();
    let pay = world.post(path).key("k").body("ten");
    ["alice", "bob"].map(|person| {
        let cookies = log_in(world, neighbour, person);
        [0, 1].map(|_| pay.clone().header("cookie", &cookies))
    })
}

#[test]
fn behind_oauth2_as_it_comes_two_people_are_never_mixed() {
    let (world, by_rules) = (by_default(), by_rules());
    never_mixed(&world.ledger, people(&world, "/oauth2/mixed").as_flattened());
    // The token that the client has sent of its own accord is taken away too.
    saw_no_token(&world.ledger, "/oauth2/mixed");
    never_mixed(&by_rules.ledger, people(&by_rules, "/oauth2/share/mixed").as_flattened());
}

#[test]
fn behind_oauth2_that_forwards_the_token_two_people_are_kept_apart() {
    let world = by_default();
    kept_apart(&world.ledger, people(&world, "/oauth2-forwarding/apart"));
    let tokens: Vec<_> = world.ledger.entries_for("/oauth2-forwarding/apart");
    let tokens: Vec<_> = tokens.iter().filter_map(|entry| entry.header("authorization")).collect();
    assert_eq!(tokens, ["Bearer token-of-alice", "Bearer token-of-bob"]);
}

#[test]
fn the_cookie_of_oauth2_keeps_two_people_apart_where_the_scope_reads_it() {
    let world = by_rules();
    kept_apart(&world.ledger, people(&world, "/oauth2/session/apart"));
}

#[test]
fn a_client_that_has_not_logged_in_gets_no_replay() {
    let world = by_default();
    let path = "/oauth2-forwarding/stranger";
    let [[alice, _], _] = people(&world, path);
    assert!(said(&alice.send()).starts_with("executed;"));
    // It writes what the filter would write for Alice.
    let stranger = world.post(path).caller("Bearer token-of-alice").key("k").body("ten");
    let forged =
        stranger.clone().header("cookie", "BearerToken=token-of-alice; OauthExpires=4000000000; OauthHMAC=AAAA");
    for answer in [stranger.send(), forged.send()] {
        assert_eq!((answer.status, said(&answer)), (302, ""), "{}", shown(&answer));
    }
    assert_eq!(world.ledger.entries_for(path).len(), 1);
}
