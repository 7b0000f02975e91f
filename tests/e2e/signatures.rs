//! Requests that are signed anew for each try: SigV4, OAuth 1, Hawk, Digest and HTTP signatures.
//!
//! Its one rule: a forged signature with another's id never gets that one's answer.
//! It does not know cryptography: the verifier is a lua that knows each id's word, and a signature is right that is
//! this word and the number of the try.

use harness::{Request, World};

use crate::check::{executed, replays, said, shown};
use crate::verifiers::{by_default, by_rules, kept_apart, never_mixed, unprotected};

/// Refuses a wrong signature with 403.
pub const VERIFIER: &str = r#"
local words = { alice = "wonderland", bob = "builder" }
local ids = {
  'Credential=(%w+)', 'oauth_consumer_key="(%w+)"', '[ ,]id="(%w+)"',
  'username="(%w+)"', 'keyId="(%w+)"', '^%w+ (%w+):',
}
local signatures = { '[Ss]ignature="?([%w-]+)', 'mac="([%w-]+)"', 'response="([%w-]+)"', '^%w+ %w+:([%w-]+)' }

local function first(patterns, text)
  for _, pattern in ipairs(patterns) do
    local found = text:match(pattern)
    if found then return found end
  end
  return ""
end

function envoy_on_request(handle)
  local shown = handle:headers():get("authorization") or ""
  local word = words[first(ids, shown)]
  if word == nil or first(signatures, shown):match("^(%a+)-%d+$") ~= word then
    handle:respond({ [":status"] = "403" }, "the signature is wrong")
  end
end
"#;

/// Each kind of signature in `authorization`.
const SCHEMES: [Scheme; 9] = [
    ("sigv4", |id, nonce, signature| {
        let scope = format!("{id}/202611{nonce:02}/eu-central-1/pay/aws4_request");
        format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host;x-amz-date, Signature={signature}")
    }),
    ("sigv4a", |id, nonce, signature| {
        let scope = format!("{id}/202611{nonce:02}/pay/aws4_request");
        format!("AWS4-ECDSA-P256-SHA256 Credential={scope},SignedHeaders=host,Signature={signature}")
    }),
    ("google", |id, nonce, signature| {
        let scope = format!("{id}/202611{nonce:02}/auto/pay/goog4_request");
        format!("GOOG4-RSA-SHA256 Credential={scope},SignedHeaders=host,Signature={signature}")
    }),
    ("sigv2", |id, _, signature| format!("AWS {id}:{signature}")),
    ("azure", |id, _, signature| format!("SharedKey {id}:{signature}")),
    ("oauth1", |id, nonce, signature| {
        let who = format!(r#"realm="pay", oauth_consumer_key="{id}""#);
        let when = format!(r#"oauth_nonce="n{nonce}", oauth_timestamp="{nonce}""#);
        format!(r#"OAuth {who}, {when}, oauth_signature_method="HMAC-SHA256", oauth_signature="{signature}""#)
    }),
    ("hawk", |id, nonce, signature| {
        format!(r#"Hawk id="{id}", ts="{nonce}", nonce="n{nonce}", ext="pay", mac="{signature}""#)
    }),
    ("digest", |id, nonce, signature| {
        let who = format!(r#"username="{id}", realm="pay""#);
        format!(r#"Digest {who}, nonce="n{nonce}", uri="/pay", nc=0000000{nonce}, response="{signature}""#)
    }),
    ("http-signature", |id, nonce, signature| {
        let what = format!(r#"created={nonce},headers="(request-target) (created)""#);
        format!(r#"Signature keyId="{id}",algorithm="hmac-sha256",{what},signature="{signature}""#)
    }),
];

/// The name of a scheme, and how it says who has signed in which try, and with what.
type Scheme = (&'static str, fn(&str, u32, &str) -> String);

/// The request signed for its try number `nonce` in the name of `id`, by a client that knows this word.
fn signed(pay: &Request, (_, write): Scheme, id: &str, nonce: u32, word: &str) -> Request {
    pay.clone().caller(write(id, nonce, &format!("{word}-{nonce}")))
}

fn pay(world: &World, place: &str, scheme: Scheme, what: &str) -> Request {
    world.post(&format!("{place}/{}/{what}", scheme.0)).key("k").body("ten")
}

/// Two tries of each of two clients.
fn tries(pay: &Request, scheme: Scheme) -> [[Request; 2]; 2] {
    [("alice", "wonderland"), ("bob", "builder")]
        .map(|(id, word)| [1, 2].map(|nonce| signed(pay, scheme, id, nonce, word)))
}

#[test]
fn a_request_signed_anew_for_each_try_passes_without_protection_and_says_so() {
    let (world, by_rules) = (by_default(), by_rules());
    for scheme in SCHEMES {
        for (world, place) in [
            (&world, "/none/signed"),
            (&world, "/verifier/signed"),
            (&by_rules, "/none/share/signed"),
            (&by_rules, "/verifier/share/signed"),
        ] {
            never_mixed(&world.ledger, tries(&pay(world, place, scheme, "anew"), scheme).as_flattened());
        }
    }
}

#[test]
fn even_a_signature_that_is_sent_twice_tells_no_caller() {
    let world = by_default();
    for scheme in SCHEMES {
        let [[alice, _], _] = tries(&pay(&world, "/none/signed", scheme, "twice"), scheme);
        never_mixed(&world.ledger, [&alice, &alice]);
    }
}

#[test]
fn behind_a_verifier_the_signer_is_the_caller_and_a_retry_is_replayed() {
    let world = by_rules();
    for scheme in SCHEMES {
        kept_apart(&world.ledger, tries(&pay(&world, "/verifier/signer", scheme, "apart"), scheme));
    }
}

#[test]
fn a_forged_signature_gets_no_replay() {
    let (world, by_rules) = (by_default(), by_rules());
    for scheme in SCHEMES {
        for (world, place) in [
            (&world, "/none/signed"),
            (&world, "/verifier/signed"),
            (&by_rules, "/none/share/signed"),
            (&by_rules, "/verifier/share/signed"),
            (&by_rules, "/verifier/signer"),
        ] {
            let pay = pay(world, place, scheme, "forged");
            let first = signed(&pay, scheme, "alice", 1, "wonderland").send();
            assert_eq!(first.status, 201, "{place} {}: {}", scheme.0, shown(&first));
            // Mallory does not know the word; Bob, who has one of his own, does not know Alice's.
            for (nonce, word) in [(1, "guess"), (2, "builder")] {
                let answer = signed(&pay, scheme, "alice", nonce, word).send();
                assert_eq!(answer.header("idempotent-replayed"), None, "{place}: {}", shown(&answer));
                assert_ne!(answer.body, first.body, "{place}: {}", shown(&answer));
                match place.starts_with("/verifier") {
                    true => assert_eq!((answer.status, said(&answer)), (403, ""), "{place}: {}", shown(&answer)),
                    false => unprotected(&answer),
                }
            }
        }
    }
}

#[test]
fn a_signature_that_names_two_ids_or_none_tells_no_signer() {
    let world = by_rules();
    let pay = world.post("/none/signer/ambiguous").key("k").body("ten");
    // Each would be Alice to one reader and another to the next.
    let ambiguous = [
        r#"Hawk id="alice", id="mallory", nonce="1", mac="x""#,
        r#"Hawk id="alice", ID="mallory", nonce="1", mac="x""#,
        r#"Signature keyId="mallory",signature="x",keyid="alice""#,
        r#"Digest username="alice", realm="pay", username="mallory", response="x""#,
        r#"Digest username*=UTF-8''alice, realm="pay", response="x""#,
        r#"Digest username="alice", username*=UTF-8''mallory, realm="pay", response="x""#,
        r#"OAuth oauth_consumer_key="alice", oauth_consumer_key="mallory", oauth_signature="x""#,
        "AWS4-HMAC-SHA256 Credential=alice/1/x/y/aws4_request, Credential=mallory/1/x/y/aws4_request, Signature=x",
        r#"Hawk nonce="id=\"alice\", mac="x""#,
        r#"Hawk id="alice"#,
        r#"Hawk id="", mac="x""#,
        r#"Hawk mac="x""#,
        "AWS4-HMAC-SHA256 Credential=/1/x/y/aws4_request, Signature=x",
        "AWS alice",
        "AWS :x",
        "Hawk",
        "Negotiate YII=",
        "NTLM TlRMTVNTUAAB",
        "Unheard alice",
    ];
    let genuine = pay.clone().caller(r#"Hawk id="alice", nonce="0", mac="x""#).send();
    executed(&genuine, 1);
    for shown in ambiguous {
        never_mixed(&world.ledger, [&pay.clone().caller(shown), &pay.clone().caller(shown)]);
    }
    // An id in what is quoted is none.
    let quoted = pay.clone().caller(r#"Hawk ext="id=\"alice\", x", id="mallory", mac="x""#);
    executed(&quoted.send(), 1);
    replays(&pay.caller(r#"Hawk id="alice", nonce="9", mac="y""#).send(), &genuine);
}

#[test]
fn two_signatures_in_one_request_tell_no_signer() {
    let world = by_rules();
    for scheme in SCHEMES {
        let pay = pay(&world, "/none/signer", scheme, "two");
        let first = signed(&pay, scheme, "alice", 1, "wonderland").send();
        executed(&first, 1);
        // Envoy makes one line of two, and the verifier may take either.
        for ids in [["alice", "bob"], ["bob", "alice"]] {
            let lines = ids.map(|id| scheme.1(id, 2, "builder-2"));
            let both = lines.iter().fold(pay.clone(), |pay, line| pay.header("authorization", line));
            never_mixed(&world.ledger, [&both]);
        }
        replays(&signed(&pay, scheme, "alice", 3, "wonderland").send(), &first);
    }
}

#[test]
fn one_id_is_another_signer_under_every_kind_of_signature_and_an_ordinary_credential_is_none() {
    let world = by_rules();
    let pay = world.post("/none/signer/kinds").key("k").body("ten");
    let kinds = [
        r#"Hawk id="alice", mac="x""#,
        r#"Digest username="alice", realm="pay", response="x""#,
        r#"Digest username="alice", realm="other", response="x""#,
        r#"OAuth oauth_consumer_key="alice", oauth_signature="x""#,
        r#"OAuth oauth_consumer_key="alice", oauth_token="of bob", oauth_signature="x""#,
        r#"Signature keyId="alice",signature="x""#,
        "AWS alice:x",
        // Not every verifier takes the backslash away, and then these are two people.
        r#"Digest username="ALICE\B", realm="pay", response="x""#,
        r#"Digest username="ALICEB", realm="pay", response="x""#,
    ];
    for shown in kinds {
        executed(&pay.clone().caller(shown).send(), 1);
    }
    let ordinary = ["Bearer alice", "Basic YWxpY2U6c2VjcmV0", "alice"].map(|shown| pay.clone().caller(shown));
    never_mixed(&world.ledger, &ordinary);
    never_mixed(&world.ledger, [&pay.anonymous()]);
}

#[test]
fn a_signature_that_stands_in_headers_of_its_own_tells_no_caller() {
    let (world, by_rules) = (by_default(), by_rules());
    for (world, path) in [(&world, "/none/own"), (&by_rules, "/none/share/own"), (&by_rules, "/none/signer/own")] {
        let pay = world.post(path).anonymous().key("k").body("ten");
        let tries = ["alice", "alice", "bob"].map(|id| {
            let input = format!(r#"sig1=("@method" "@path");keyid="{id}""#);
            pay.clone().header("signature-input", input).header("signature", "sig1=:MTIz:")
        });
        never_mixed(&world.ledger, &tries);
    }
}

#[test]
fn a_scheme_that_the_operator_names_tells_a_caller_and_no_other_does() {
    let (world, by_rules) = (by_default(), by_rules());
    let own = |world: &World, path: &str| {
        let pay = world.post(path).key("k").body("ten");
        ["Acme alice", "Acme bob"].map(|shown| [0, 1].map(|_| pay.clone().caller(shown)))
    };
    never_mixed(&world.ledger, own(&world, "/none/scheme/unnamed").as_flattened());
    kept_apart(&by_rules.ledger, own(&by_rules, "/none/scheme/named"));
    let pay = by_rules.post("/none/scheme/other").key("k").body("ten");
    // The name of the scheme alone is what is left of a credential, and the same for every caller.
    never_mixed(&by_rules.ledger, &["Acme2 alice", "Hawk id=\"alice\"", "Acme"].map(|shown| pay.clone().caller(shown)));
    // Those that tell a caller anyway still do.
    let ordinary = by_rules.post("/none/scheme/ordinary").key("k").body("ten");
    let tries = ["Bearer alice", "Bearer bob"].map(|shown| [0, 1].map(|_| ordinary.clone().caller(shown)));
    kept_apart(&by_rules.ledger, tries);
}

#[test]
fn a_signature_in_one_word_or_behind_another_credential_is_no_caller() {
    let world = by_default();
    for write in [
        |nonce: u32| format!("alice:signature-{nonce}"),
        |nonce| format!("bce-auth-v1/alice/2026-11-27T06:00:{nonce:02}Z/1800/host/{nonce:064x}"),
        |nonce| format!("Bearer app,Digest username=\"alice\", nonce=\"n{nonce}\""),
        |nonce| format!("Token app, Hawk id=\"alice\", mac=\"m{nonce}\""),
    ] {
        let pay = world.post("/open/one-word").key("k").body("ten");
        never_mixed(&world.ledger, &[1, 2].map(|nonce| pay.clone().caller(write(nonce))));
    }
    let lines = world.post("/open/two-lines").key("k").caller("Bearer app");
    let tries = ["1", "2"].map(|nonce| {
        lines.clone().header("authorization", format!("Digest username=\"alice\", nonce=\"{nonce}\"")).body("ten")
    });
    never_mixed(&world.ledger, &tries);
}
