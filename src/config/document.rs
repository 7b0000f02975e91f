//! The operator's document, object by object: which fields there are, their defaults and their bounds.
//!
//! Its one rule: what a document does not say has its default here, next to the field's name; only the table of
//! outcomes and the presets of statuses stand with their types.
//! It does not know how JSON is walked or how requests are matched.

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::rc::Rc;

use base64ct::{Base64, Encoding};
use serde_json::{Map, Value};

use super::rules::{Match, header_name, is_token, path, plain};
use super::walk::{ConfigError, Fields, Place, Read, Reader, flag, merge, parse_text};
use super::{
    Anonymous, BodyPart, Breaker, CacheBounds, Config, EncryptionKey, Execution, Fate, FingerprintPolicy, Inject,
    KeyPolicy, Mode, OnCompleted, OnInFlight, OnMismatch, OnStoreFailure, OnTooLarge, OnUnknown, Outcomes, Part,
    Policy, Redis, Rule, Save, Scope, Separation, Statuses, Store,
};
use crate::json::Pointer;
use crate::refusal::ProblemType;

impl Config {
    /// How a warning ends about a rule that is in force for nothing.
    pub const PROTECTS_NOTHING: &str = "is empty, so no request is protected";

    /// Reads the whole document, or says what is wrong with it; `env` reads a variable of the VM's environment.
    pub fn parse(document: &[u8], env: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
        let warnings = RefCell::default();
        let root = Place::root(&warnings);
        let document = parse_text(document, root)?;
        let mut config = root.object(&document, |fields| {
            let store = fields.nested("store", |at, value| store(at, value, env))?;
            let (hash_key, encryption) = fields.nested("secrets", |at, value| secrets(&at.as_secret(), value, env))?;
            let problem_base = fields.read("problem_base", "urn:envoy-idempotency:".into(), problem_base)?;
            let status_path = fields.read("status_path", None, |at, value| match value {
                Value::Null => Ok(None),
                value => path(at, value).map(|path| Some(path.to_owned())),
            })?;
            let frame = Frame { problem_base, ttl_s: if matches!(store, Store::Redis(_)) { DAY_S } else { 1800 } };
            // The defaults are right by themselves, so that what is wrong with a rule is the rule's fault.
            let (defaults, common) =
                fields.nested("policy", |at, value| Ok((value.clone(), policy(at, value, value, &frame)?)))?;
            let everywhere = || Rule::new("default".into(), Match::default(), common.clone());
            let rules = fields.read("rules", None, |at, value| {
                at.filled_list(value, |at, value| rule(at, value, &defaults, &common, &frame)).map(Some)
            })?;
            let rules = rules.unwrap_or_else(|| vec![everywhere()]);
            let problem_base = frame.problem_base;
            Ok(Config { store, hash_key, encryption, rules, status_path, problem_base, warnings: Vec::new() })
        })?;
        refuse_bodies_that_never_fit(&root.member("store"), &config)?;
        if matches!(config.store, Store::Redis(_)) && config.encryption.is_empty() {
            root.member("store").warn("keeps responses in Redis in clear; give secrets.encryption");
        }
        warn_of_rules(root, &config);
        warn_of_no_callers(root, &config, &document);
        config.warnings = warnings.into_inner();
        Ok(config)
    }
}

/// What a policy takes from the rest of the document.
struct Frame {
    problem_base: String,
    /// The default of `ttl_s`, which hangs on the store.
    ttl_s: u64,
}

type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads `store`. A field of the other type is as unknown as any that there is not.
fn store(at: &Place<'_>, value: &Value, env: Environment<'_>) -> Read<Store> {
    at.object(value, |fields| {
        match fields.read("type", false, |at, value| at.choice(value, &[("local", false), ("redis", true)]))? {
            false => {
                let max_bytes = fields.read("max_bytes", 64 * MIB, |at, value| at.whole(value, MIB..=16 * GIB))?;
                Ok(Store::Local { max_bytes })
            }
            true => redis(fields, env).map(|redis| Store::Redis(Box::new(redis))),
        }
    })
}

fn redis(fields: &mut Fields<'_>, env: Environment<'_>) -> Read<Redis> {
    let cluster = fields.required("cluster", plain)?;
    fields.read("dialect", (), |at, value| at.choice(value, &[("webdis", ())]))?;
    Ok(Redis {
        authority: fields.read("authority", cluster.clone(), |at, value| visible(at, value, 1..=255))?,
        cluster,
        path: fields.read("path", "/".to_owned(), |at, value| {
            let fits = |text: &str| text.starts_with('/') && is_visible(text, &(1..=255)) && !text.contains(['?', '#']);
            let path =
                at.text(value, "a path of visible ASCII characters that begins with /, without ? and #", fits)?;
            Ok(format!("{}/", path.trim_end_matches('/')))
        })?,
        authorization: fields.read("authorization", None, |at, value| {
            let value = secret(&at.as_secret(), value, env)?;
            match String::from_utf8(value) {
                Ok(text) if text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) => Ok(Some(text)),
                _ => Err(at.error("must be ASCII without control characters")),
            }
        })?,
        timeout_ms: fields.read("timeout_ms", 250, |at, value| at.whole(value, 10..=60_000))?,
        attempts: fields.read("attempts", 2, |at, value| at.whole(value, 1..=10))? as u32,
        prefix: fields.read("prefix", "idem:".to_owned(), |at, value| visible(at, value, 1..=128))?,
        batching: fields.read("batching", true, flag)?,
        breaker: fields.nested("breaker", |at, value| {
            at.object(value, |fields| {
                Ok(Breaker {
                    failures: fields.read("failures", 5, |at, value| at.whole(value, 1..=1000))? as u32,
                    open_ms: fields.read("open_ms", 1000, |at, value| at.whole(value, 10..=60_000))?,
                })
            })
        })?,
        cache: fields.nested("cache", |at, value| match value {
            Value::Null => Ok(None),
            value => cache(at, value).map(Some),
        })?,
    })
}

fn cache(at: &Place<'_>, value: &Value) -> Read<CacheBounds> {
    let bounds = at.object(value, |fields| {
        Ok(CacheBounds {
            max_bytes: fields.read("max_bytes", 16 * MIB, |at, value| at.whole(value, MIB..=16 * GIB))?,
            max_entry_bytes: fields.read("max_entry_bytes", 16_384, |at, value| at.whole(value, 1..=16 * MIB))?,
            ttl_ms: 1000 * fields.read("ttl_s", 60, |at, value| at.whole(value, 1..=DAY_S))?,
        })
    })?;
    // Half of the bytes are for large entries, and a few of these there should be.
    match bounds.max_entry_bytes > bounds.max_bytes / 8 {
        true => Err(at.member("max_entry_bytes").error(format_args!(
            "must be at most an eighth of max_bytes ({}), is {}",
            bounds.max_bytes / 8,
            bounds.max_entry_bytes
        ))),
        false => Ok(bounds),
    }
}

fn visible(at: &Place<'_>, value: &Value, lengths: RangeInclusive<usize>) -> Read<String> {
    let wanted = format!("{} to {} visible ASCII characters", lengths.start(), lengths.end());
    at.text(value, &wanted, |text| is_visible(text, &lengths)).map(str::to_owned)
}

fn is_visible(text: &str, lengths: &RangeInclusive<usize>) -> bool {
    lengths.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Reads `secrets`: the key of names, and those of stored responses.
fn secrets(at: &Place<'_>, value: &Value, env: Environment<'_>) -> Read<(Option<Vec<u8>>, Vec<EncryptionKey>)> {
    at.object(value, |fields| {
        let hash_key = fields.read("hash_key", None, |at, value| secret(at, value, env).map(Some))?;
        let encryption = fields.read("encryption", Vec::new(), |at, value| {
            let keys = at.filled_list(value, |at, value| encryption_key(at, value, env))?;
            for (index, key) in keys.iter().enumerate() {
                if keys.iter().take(index).any(|other| other.id == key.id) {
                    return Err(at.item(index).member("id").error("is the id of another key too"));
                }
            }
            Ok(keys)
        })?;
        Ok((hash_key, encryption))
    })
}

fn encryption_key(at: &Place<'_>, value: &Value, env: Environment<'_>) -> Read<EncryptionKey> {
    at.object(value, |fields| {
        Ok(EncryptionKey {
            id: fields.required("id", |at, value| visible(at, value, 1..=32))?,
            key: fields.required("key", |at, value| {
                let text = secret(at, value, env)?;
                let mut key = [0; 32];
                match Base64::decode(text.trim_ascii(), &mut key).map(<[u8]>::len) {
                    Ok(32) => Ok(key),
                    _ => Err(at.error("must be 32 bytes in base64: openssl rand -base64 32")),
                }
            })?,
        })
    })
}

/// Reads a secret that stands here or, better, in the environment.
fn secret(at: &Place<'_>, value: &Value, env: Environment<'_>) -> Read<Vec<u8>> {
    let text = match value {
        Value::Object(_) => at.object(value, |fields| {
            fields.required("env", |at, value| {
                let name = plain(at, value)?;
                // The name is not repeated: it may be the secret itself, put in the wrong place.
                env(&name).ok_or_else(|| at.error("names a variable that the VM's environment does not have"))
            })
        })?,
        Value::String(text) => {
            at.warn("can be read in Envoy's config dump; give {\"env\": NAME} instead");
            text.clone()
        }
        _ => return Err(at.wrong("a string or {\"env\": NAME}", value)),
    };
    if text.is_empty() { Err(at.error("must not be empty")) } else { Ok(text.into_bytes()) }
}

fn problem_base(at: &Place<'_>, value: &Value) -> Read<String> {
    visible(at, value, 1..=1024)
}

/// Reads one of `rules`; the document's own policy is given as it was written and as it was read.
fn rule(at: &Place<'_>, value: &Value, defaults: &Value, common: &Policy, frame: &Frame) -> Read<Rule> {
    at.object(value, |fields| {
        let name = fields.read("name", at.to_string().trim_start_matches('/').to_owned(), plain)?;
        let matches = fields.nested("match", Match::read)?;
        let policy = fields.read("policy", common.clone(), |at, patch| {
            // By itself first: so each value of the patch is judged, and warned of, where it was written.
            policy(&at.as_patch(), patch, patch, frame)?;
            let mut merged = defaults.clone();
            merge(&mut merged, patch);
            let said_before = RefCell::default();
            policy(&at.warning_to(&said_before), &merged, patch, frame)
        })?;
        Ok(Rule::new(name, matches, policy))
    })
}

impl Rule {
    fn new(name: String, matches: Match, policy: Policy) -> Self {
        let policy = Rc::new(Policy { rule: name.clone(), ..policy });
        Rule { name, matches, policy }
    }
}

/// Reads a policy. `written` is the part of it that was written here, for contradictions to point at.
fn policy(at: &Place<'_>, value: &Value, written: &Value, frame: &Frame) -> Read<Policy> {
    let policy = at.object(value, |fields| {
        Ok(Policy {
            // The rule puts its own here.
            rule: String::new(),
            mode: fields.read("mode", Mode::Enforce, |at, value| {
                let words = [
                    ("enforce", Mode::Enforce),
                    ("observe", Mode::Observe),
                    ("inject", Mode::Inject),
                    ("off", Mode::Off),
                ];
                at.choice(value, &words)
            })?,
            key: fields.nested("key", key)?,
            scope: fields.nested("scope", scope)?,
            fingerprint: fields.nested("fingerprint", fingerprint)?,
            on_mismatch: fields.read("on_mismatch", OnMismatch::Reject, |at, value| {
                at.choice(value, &[("reject", OnMismatch::Reject), ("separate", OnMismatch::Separate)])
            })?,
            on_in_flight: fields.nested("on_in_flight", on_in_flight)?,
            on_completed: fields.read("on_completed", OnCompleted::Replay, |at, value| {
                at.choice(value, &[("replay", OnCompleted::Replay), ("conflict", OnCompleted::Conflict)])
            })?,
            on_unknown: fields.read("on_unknown", OnUnknown::Retry, |at, value| {
                at.choice(value, &[("retry", OnUnknown::Retry), ("hold", OnUnknown::Hold)])
            })?,
            on_store_failure: fields.read("on_store_failure", OnStoreFailure::Reject, on_store_failure)?,
            on_too_large: fields.read("on_too_large", OnTooLarge::Reject, |at, value| {
                at.choice(value, &[("reject", OnTooLarge::Reject), ("bypass", OnTooLarge::Bypass)])
            })?,
            lease_ms: fields.read("lease_ms", 60_000, |at, value| at.whole(value, 1000..=DAY_MS))?,
            max_running_ms: fields.read("max_running_ms", 300_000, |at, value| at.whole(value, 1000..=DAY_MS))?,
            ttl_ms: 1000 * fields.read("ttl_s", frame.ttl_s, |at, value| at.whole(value, 1..=YEAR_S))?,
            max_request_bytes: fields.read("max_request_bytes", 524_288, |at, value| at.whole(value, 1..=64 * MIB))?,
            max_response_bytes: fields
                .read("max_response_bytes", 524_288, |at, value| at.whole(value, 1..=64 * MIB))?,
            outcomes: fields.nested("outcomes", outcomes)?,
            execution: fields.nested("execution", execution)?,
            save: fields.read("save", Save::BeforeReply, |at, value| {
                at.choice(value, &[("before_reply", Save::BeforeReply), ("after_reply", Save::AfterReply)])
            })?,
            statuses: fields.read("statuses", Statuses::classic(), statuses)?,
            problem_base: frame.problem_base.clone(),
            expose_cors: fields.read("expose_cors", false, flag)?,
        })
    })?;
    // A patch that seems to contradict itself may be right once it is merged.
    if !at.is_patch() {
        refuse_contradictions(at, &policy, written)?;
    }
    Ok(policy)
}

/// Points at the field that was written here; a rule may contradict what stands in the document's own policy.
fn refuse_contradictions(at: &Place<'_>, policy: &Policy, written: &Value) -> Read<()> {
    let only = |name: &str, other: &str| written.get(name).is_some() && written.get(other).is_none();
    let (lease_ms, ttl_s) = (policy.lease_ms, policy.ttl_ms / 1000);
    if policy.ttl_ms <= lease_ms {
        return Err(match only("lease_ms", "ttl_s") {
            true => at.member("lease_ms").error(format_args!("must be less than ttl_s ({ttl_s} s), is {lease_ms}")),
            false => at.member("ttl_s").error(format_args!("must exceed lease_ms ({lease_ms} ms), is {ttl_s}")),
        });
    }
    if policy.scope.caller.is_empty() && policy.scope.anonymous == Anonymous::Refuse {
        let scope = at.member("scope");
        return Err(scope.error("must not have an empty caller with anonymous \"refuse\", which refuses every request"));
    }
    refuse_contradictory_injection(&at.member("key"), policy)
}

/// Where the gateway makes the key, every setting must leave it something to make it of.
fn refuse_contradictory_injection(at: &Place<'_>, policy: &Policy) -> Read<()> {
    let (key, inject) = (&policy.key, at.member("inject"));
    let keeps = policy.mode != Mode::Inject;
    match key.inject {
        Inject::Off => Ok(()),
        _ if key.required => Err(at
            .member("required")
            .error("must not be true where key.inject makes the key that a request does not have")),
        Inject::Uuid if keeps && key.sources.len() > 1 => Err(inject
            .error("must not be \"uuid\" with several key.sources: the client could not say the key it is told again")),
        Inject::Content { .. } if !keeps => {
            Err(inject.error("must not be \"content\" with mode \"inject\", which has no store to find it in"))
        }
        Inject::Content { anonymous: true, .. } if policy.scope.anonymous != Anonymous::Share => Err(inject
            .member("anonymous")
            .error("must be false unless scope.anonymous is \"share\": only there may requests without a caller be the same one's")),
        Inject::Content { .. } if policy.fingerprint.body == BodyPart::Off => Err(inject
            .error("must not be \"content\" with fingerprint.body \"off\": the body is what tells requests apart")),
        Inject::Content { .. } | Inject::Uuid => Ok(()),
    }
}

fn key(at: &Place<'_>, value: &Value) -> Read<KeyPolicy> {
    at.object(value, |fields| {
        Ok(KeyPolicy {
            sources: fields.read("sources", vec![Part::Header("idempotency-key".into())], |at, value| {
                at.filled_list(value, source)
            })?,
            required: fields.read("required", false, flag)?,
            max_bytes: fields.read("max_bytes", 255, |at, value| at.whole(value, 1..=4096))? as usize,
            inject: fields.nested("inject", inject)?,
        })
    })
}

fn inject(at: &Place<'_>, value: &Value) -> Read<Inject> {
    at.object(value, |fields| {
        let kinds = [("off", Inject::Off), ("uuid", Inject::Uuid), ("content", CONTENT)];
        let kind = fields.read("kind", Inject::Off, |at, value| at.choice(value, &kinds))?;
        let window_ms = fields.read("window_ms", 10_000, |at, value| at.whole(value, 100..=DAY_MS))?;
        let anonymous = fields.read("anonymous", false, flag)?;
        Ok(if kind == CONTENT { Inject::Content { window_ms, anonymous } } else { kind })
    })
}

const CONTENT: Inject = Inject::Content { window_ms: 0, anonymous: false };

/// Reads a part of the key.
fn source(at: &Place<'_>, value: &Value) -> Read<Part> {
    let part = part(at, value)?;
    if any(&part, is_drawn_anew) {
        at.warn(DRAWN_ANEW);
    }
    Ok(part)
}

/// Whether this holds of a part, or of one of those that stand in for it.
fn any(part: &Part, is: fn(&Part) -> bool) -> bool {
    is(part) || matches!(part, Part::Any(parts) if parts.iter().any(|part| any(part, is)))
}

fn is_drawn_anew(part: &Part) -> bool {
    match part {
        Part::Header(name) => name == "x-request-id",
        Part::Property(path) => path.ends_with(&["x-request-id".to_owned()]) || *path == ["request", "id"],
        _ => false,
    }
}

const DRAWN_ANEW: &str = "is drawn anew by Envoy for each request, so that no retry has the same one, unless \
                          preserve_external_request_id is true";

/// Reads one place of a request.
fn part(at: &Place<'_>, value: &Value) -> Read<Part> {
    at.one_of(value, &parts(|at, value| Ok(Part::Any(at.filled_list(value, part)?))))
}

fn parts(any: Reader<Part>) -> [(&'static str, Reader<Part>); 7] {
    [
        ("header", |at, value| Ok(Part::Header(header_name(at, value)?))),
        ("query", |at, value| Ok(Part::Query(plain(at, value)?))),
        ("cookie", |at, value| Ok(Part::Cookie(at.text(value, "a cookie name", is_token)?.to_owned()))),
        ("form", |at, value| Ok(Part::Form(plain(at, value)?))),
        ("json", |at, value| Ok(Part::Json(pointer(at, value)?))),
        ("path_segment", |at, value| Ok(Part::PathSegment(at.whole(value, 0..=255)? as usize))),
        ("any", any),
    ]
}

fn pointer(at: &Place<'_>, value: &Value) -> Read<Pointer> {
    let text = at.text(value, "a JSON Pointer such as /order/id", |text| Pointer::parse(text).is_some())?;
    Pointer::parse(text).ok_or_else(|| at.wrong("a JSON Pointer", value))
}

fn scope(at: &Place<'_>, value: &Value) -> Read<Scope> {
    at.object(value, |fields| {
        Ok(Scope {
            caller: fields.read("caller", vec![authorization()], |at, value| at.list(value, caller))?,
            anonymous: fields.read("anonymous", Anonymous::Auto, anonymous)?,
            method: fields.read("method", Separation::Separates, separation)?,
            host: fields.read("host", Separation::Separates, separation)?,
            path: fields.read("path", Separation::Separates, separation)?,
        })
    })
}

fn separation(at: &Place<'_>, value: &Value) -> Read<Separation> {
    match value {
        Value::Bool(true) => Ok(Separation::Separates),
        Value::Bool(false) => Ok(Separation::Compared),
        Value::String(word) if word == "ignore" => {
            at.warn("gives one key one answer, whatever it is used for; false compares instead");
            Ok(Separation::Ignored)
        }
        _ => Err(at.wrong("true or false or \"ignore\"", value)),
    }
}

fn authorization() -> Part {
    Part::Authorization { header: "authorization".to_owned(), schemes: Vec::new() }
}

fn caller(at: &Place<'_>, value: &Value) -> Read<Part> {
    let part = caller_part(at, value)?;
    if any(&part, |part| matches!(part, Part::Authorization { .. })) {
        at.warn("takes authorization as it was sent, so a client that renews its token is another caller");
    }
    if any(&part, |part| matches!(part, Part::Signer)) {
        at.warn("believes who a signature says has signed: a filter in front must verify it");
    }
    if any(&part, |part| matches!(part, Part::Property(path) if *path == ["source", "address"])) {
        at.warn("has the port of each connection in it, so that hardly a retry is the same caller");
    }
    if any(&part, is_drawn_anew) {
        at.warn(DRAWN_ANEW);
    }
    Ok(part)
}

/// Reads one place of a request, or of what Envoy knows about its sender.
fn caller_part(at: &Place<'_>, value: &Value) -> Read<Part> {
    let header = value.get("header").and_then(Value::as_str).map(str::to_ascii_lowercase);
    if let Some(header) = header.filter(|header| HEADERS_WITH_SCHEMES.contains(&header.as_str())) {
        return at.object(value, |fields| {
            fields.required("header", header_name)?;
            let schemes = fields.read("schemes", Vec::new(), |at, value| {
                at.filled_list(value, |at, value| scheme(at, value, &header))
            })?;
            Ok(Part::Authorization { header, schemes })
        });
    }
    if value.get("schemes").is_some() {
        let [one, other] = HEADERS_WITH_SCHEMES;
        return Err(at.member("schemes").error(format_args!("goes only with header {one} or {other}")));
    }
    let of_callers: [(&str, Reader<Part>); 3] = [
        ("jwt_claim", |at, value| Ok(Part::JwtClaim(plain(at, value)?))),
        ("property", |at, value| Ok(Part::Property(at.filled_list(value, plain)?))),
        ("signer", |at, value| match value.as_str() {
            Some(header) if header.eq_ignore_ascii_case("authorization") => Ok(Part::Signer),
            _ => at.choice(value, &[("authorization", ())]).map(|()| Part::Signer),
        }),
    ];
    let any: Reader<Part> = |at, value| Ok(Part::Any(at.filled_list(value, caller_part)?));
    at.one_of(value, &parts(any).into_iter().chain(of_callers).collect::<Vec<_>>())
}

/// "Authorization = credentials", "Proxy-Authorization = credentials" (RFC 9110, sections 11.6.2 and 11.7.2).
const HEADERS_WITH_SCHEMES: [&str; 2] = ["authorization", "proxy-authorization"];

/// Reads the name of a scheme of this header, whose credentials stay the same.
fn scheme(at: &Place<'_>, value: &Value, header: &str) -> Read<String> {
    let name = at.text(value, "a scheme such as Bearer", is_token)?;
    let is = |known: &&str| match known.strip_suffix('*') {
        Some(start) => name.get(..start.len()).is_some_and(|lead| lead.eq_ignore_ascii_case(start)),
        None => name.eq_ignore_ascii_case(known),
    };
    let is_signed = SIGNED_ANEW.iter().any(is);
    if is_signed && header == "authorization" {
        at.warn(
            "is made anew for each try, which is then another caller; {\"signer\": \"authorization\"} is what stays",
        );
    } else if is_signed || OF_CONNECTIONS.iter().any(is) {
        at.warn("is made anew for each try, which is then another caller");
    }
    Ok(name.to_owned())
}

/// Schemes of signatures, of which who has signed stays; a star stands for any ending.
const SIGNED_ANEW: [&str; 6] = ["AWS4-*", "Digest", "GOOG4-*", "Hawk", "OAuth", "Signature"];

/// Schemes whose tokens are hidden in what a connection begins with.
const OF_CONNECTIONS: [&str; 2] = ["Negotiate", "NTLM"];

fn anonymous(at: &Place<'_>, value: &Value) -> Read<Anonymous> {
    let words = [("auto", Anonymous::Auto), ("share", Anonymous::Share), ("refuse", Anonymous::Refuse)];
    let anonymous = at.choice(value, &words)?;
    if anonymous == Anonymous::Share {
        at.warn("lets callers that show no credential see each other's responses");
    }
    Ok(anonymous)
}

fn fingerprint(at: &Place<'_>, value: &Value) -> Read<FingerprintPolicy> {
    at.object(value, |fields| {
        Ok(FingerprintPolicy {
            body: body_part(at, fields)?,
            query: fields.read("query", true, flag)?,
            headers: fields.read("headers", vec!["content-type".into()], |at, value| at.list(value, header_name))?,
        })
    })
}

fn body_part(at: &Place<'_>, fields: &mut Fields<'_>) -> Read<BodyPart> {
    let kinds = [("bytes", Some(false)), ("json", Some(true)), ("off", None)];
    let kind = fields.read("body", Some(false), |at, value| at.choice(value, &kinds))?;
    let ignored = fields.read("json_ignore", Vec::new(), |at, value| at.list(value, pointer))?;
    match kind {
        Some(true) => Ok(BodyPart::Json { ignored }),
        // What a patch leaves out is no mistake.
        _ if !ignored.is_empty() && !at.is_patch() => {
            Err(at.member("json_ignore").error("must be empty unless fingerprint.body is \"json\""))
        }
        Some(false) => Ok(BodyPart::Bytes),
        None => Ok(BodyPart::Off),
    }
}

fn execution(at: &Place<'_>, value: &Value) -> Read<Execution> {
    at.object(value, |fields| {
        let kinds = [("inline", Some(false)), ("shielded", Some(true))];
        let kind = fields.read("kind", None, |at, value| at.choice(value, &kinds))?;
        let cluster = fields.read("cluster", None, |at, value| plain(at, value).map(Some))?;
        let timeout_ms = fields.read("timeout_ms", 30_000, |at, value| at.whole(value, 10..=3_600_000))?;
        match (kind, cluster) {
            // What a patch leaves out, and what stays of the way when a rule goes back to inline, is no mistake.
            (Some(true), Some(cluster)) => Ok(Execution::Shielded { cluster, timeout_ms }),
            (Some(true), None) if !at.is_patch() => Err(at.error("must have cluster")),
            (None, Some(_)) if !at.is_patch() => Err(at.error("must have kind")),
            _ => Ok(Execution::Inline),
        }
    })
}

fn on_in_flight(at: &Place<'_>, value: &Value) -> Read<OnInFlight> {
    at.object(value, |fields| {
        let waits = fields.read("action", false, |at, value| at.choice(value, &[("reject", false), ("wait", true)]))?;
        let max_wait_ms = fields.read("max_wait_ms", 10_000, |at, value| at.whole(value, 100..=600_000))?;
        Ok(if waits { OnInFlight::Wait { max_wait_ms } } else { OnInFlight::Reject })
    })
}

fn on_store_failure(at: &Place<'_>, value: &Value) -> Read<OnStoreFailure> {
    let words = [("reject", OnStoreFailure::Reject), ("forward", OnStoreFailure::Forward)];
    let decided = at.choice(value, &words)?;
    if decided == OnStoreFailure::Forward {
        at.warn("lets requests run twice while the store fails");
    }
    Ok(decided)
}

fn outcomes(at: &Place<'_>, value: &Value) -> Read<Outcomes> {
    let mut outcomes = Outcomes::default();
    let [_, not_kept @ ..] = &FATES;
    for (name, value) in at.members(value)? {
        let place = at.member(name);
        let class = CLASSES.iter().position(|class| class == name);
        let ending = ENDINGS.iter().position(|ending| ending == name);
        let status = name.parse().ok().filter(|status| (200..=599).contains(status) && name.len() == 3);
        // A name is checked also where a patch takes it away.
        if class.is_none() && ending.is_none() && status.is_none() {
            let known = [&CLASSES[..], &["200 to 599"], &ENDINGS[..]].concat();
            return Err(at.unknown(name, &known));
        }
        if at.is_patch() && value.is_null() {
            continue;
        }
        let words: &[_] = if ending.is_some() { not_kept } else { &FATES };
        let fate = place.choice(value, words)?;
        warn_of_fate(&place, class.map(|class| 200 + 100 * class as u16).or(status), name, fate);
        if let Some(known) = class.and_then(|class| outcomes.classes.get_mut(class)) {
            *known = fate;
        }
        if let Some(known) = ending.and_then(|ending| outcomes.endings.get_mut(ending)) {
            *known = fate;
        }
        if let Some(status) = status {
            outcomes.exact.retain(|(known, _)| *known != status);
            outcomes.exact.push((status, fate));
        }
    }
    Ok(outcomes)
}

/// The status is the first of its class; an ending has none.
fn warn_of_fate(at: &Place<'_>, status: Option<u16>, name: &str, fate: Fate) {
    match (status, fate) {
        (Some(400..), Fate::Store) => at.warn("keeps a failure, which every retry gets back until the record expires"),
        (Some(500..), Fate::Release) => at.warn("frees the key, for another payload too, though it may have executed"),
        (None, Fate::Release | Fate::Retry) if name != "unsent" => {
            at.warn("lets a retry run at once, though it may have executed");
        }
        _ => {}
    }
}

fn statuses(at: &Place<'_>, value: &Value) -> Read<Statuses> {
    let preset = |at: &Place<'_>, value: &Value| at.choice(value, &[("classic", false), ("ietf", true)]);
    let empty = Value::Object(Map::new());
    let (ietf, members) = match value {
        Value::Object(_) => (false, value),
        Value::String(_) => (preset(at, value)?, &empty),
        _ => return Err(at.wrong("\"classic\" or \"ietf\" or an object", value)),
    };
    at.object(members, |fields| {
        let mut statuses = match fields.read("base", ietf, preset)? {
            true => Statuses::ietf(),
            false => Statuses::classic(),
        };
        for slug in ProblemType::ALL {
            let status =
                fields.read(slug.as_str(), u64::from(statuses.of(slug)), |at, value| at.whole(value, 400..=599))?;
            statuses.set(slug, status as u16);
        }
        Ok(statuses)
    })
}

/// A table that no response of the allowed size fits would keep none of them, and Envoy does not carry a larger one
/// back from Redis than it takes from a callout.
fn refuse_bodies_that_never_fit(store: &Place<'_>, config: &Config) -> Read<()> {
    let largest = config.rules.iter().map(|rule| rule.policy.max_response_bytes).max().unwrap_or(0);
    match config.store {
        Store::Local { max_bytes } if max_bytes < largest => Err(store
            .member("max_bytes")
            .error(format_args!("must be at least max_response_bytes ({largest}), is {max_bytes}"))),
        Store::Redis(_) if largest > REDIS_RESPONSE_MAX => Err(store.error(format_args!(
            "carries responses of at most {REDIS_RESPONSE_MAX} bytes in Redis, and max_response_bytes is {largest}"
        ))),
        _ => Ok(()),
    }
}

/// Says of rules in force that nothing tells their callers, where that was written.
fn warn_of_no_callers(root: Place<'_>, config: &Config, document: &Value) {
    let is_for_nothing = |policy: &Policy| {
        let scope = &policy.scope;
        policy.mode == Mode::Enforce && scope.caller.is_empty() && scope.anonymous != Anonymous::Share
    };
    let (rules, mut is_said) = (root.member("rules"), false);
    for (index, _) in config.rules.iter().enumerate().filter(|(_, rule)| is_for_nothing(&rule.policy)) {
        let (at, common) = (rules.item(index), root.member("policy"));
        let own = document.get("rules").and_then(|rules| rules.get(index)?.pointer("/policy/scope/caller"));
        let is_own = own.is_some_and(|own| !own.is_null());
        let policy = if is_own { at.member("policy") } else { common };
        if is_own || !is_said {
            policy.member("scope").member("caller").warn(Config::PROTECTS_NOTHING);
        }
        is_said |= !is_own;
    }
}

/// Says which rules can never win, which share a name, and which would take what the look-up takes.
fn warn_of_rules(root: Place<'_>, config: &Config) {
    let rules = root.member("rules");
    for (index, rule) in config.rules.iter().enumerate() {
        let at = rules.item(index);
        let before = config.rules.iter().take(index);
        if let Some(wider) = before.clone().position(|before| before.matches.covers(&rule.matches)) {
            at.warn(&format!("is never reached, because {} takes all that it matches", rules.item(wider)));
        }
        if let Some(other) = before.clone().position(|before| before.name == rule.name) {
            at.member("name")
                .warn(&format!("is the name of {} too, so that logs do not tell them apart", rules.item(other)));
        }
        if config.status_path.as_ref().is_some_and(|path| rule.matches.may_take_get(path)) {
            at.warn("matches GET on status_path, where the look-up answers and no rule is asked");
        }
    }
}

const FATES: [(&str, Fate); 4] =
    [("store", Fate::Store), ("release", Fate::Release), ("retry", Fate::Retry), ("unknown", Fate::Unknown)];

/// In the order of [`Outcomes::classes`].
const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

/// In the order of [`Outcomes::endings`].
const ENDINGS: [&str; 4] = ["disconnect", "reset", "timeout", "unsent"];

/// Envoy gives up a callout whose response is over 32 MiB.
const REDIS_RESPONSE_MAX: u64 = 16 * MIB;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const DAY_S: u64 = 24 * 60 * 60;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;
const YEAR_S: u64 = 365 * 24 * 60 * 60;
