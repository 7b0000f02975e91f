//! The contract on real Envoy: the filter as it is shipped, a service behind it, clients in front of it.
//!
//! Its one rule: only the public face counts. What is asserted is an HTTP answer, what the service saw, a metric, the
//! access log or the log. `make build` comes first.
//! It does not know how the filter is built.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests measure real time, and a panic is how they fail"
)]

/// What several tests ask of an answer.
mod check;
/// The gateways that tests share.
mod worlds;

/// What the documents advise, followed to the letter.
mod advice;
/// The cases of other projects' test suites.
mod black_box;
/// Request and response bodies in every framing and size.
mod bodies;
/// Keys that stand in the body.
mod body_keys;
/// Header values that are not UTF-8.
mod bytes;
/// Who is asking, where a token or the host tells.
mod callers;
/// Callers with client certificates.
mod certificates;
/// Requests that do not look as they began.
mod chains;
/// Configurations that are replaced while something runs or is owed.
mod draining;
/// What Envoy says of each way in which a request can fail, and what the filter makes of it.
mod evidence;
/// What makes two requests the same, where that is not every byte.
mod fingerprints;
/// What records keep besides answers, and records that cannot be read.
mod formats;
/// Clients that go, in every phase of a request.
mod hang_ups;
/// What the gateway holds, and when it lets go.
mod held;
/// Clients that break rules, break off, or ask for what cannot be protected.
mod hostile;
/// Requests without a key, where the gateway makes one.
mod injected;
/// Keys that the gateway issues.
mod issued;
/// `envoy/istio.yaml`, served without Istio.
mod istio;
/// Answers whose body says what became of the request.
mod json_outcomes;
/// What a client may send as a key, and where it may stand.
mod keys;
/// Configurations that are refused, taken, and replaced while requests run.
mod lifecycle;
/// What becomes of the embedded store's records when listeners come and go.
mod lifetime;
/// The status look-up.
mod look_up;
/// The files for Kubernetes and Envoy Gateway, served without either.
mod manifests;
/// Methods, conditions, representations: what a request asks for besides its body.
mod meaning;
/// A table that is far too small for the keys that come.
mod memory;
/// What the module imports, and its size.
mod module;
mod monitoring;
/// This filter among others, each as it comes.
mod neighbours;
/// Metrics, access log, log.
mod observability;
/// Requests for one resource, one at a time.
mod one_at_a_time;

mod operator;
/// Other places among the filters than those that the documents name.
mod order;
/// What becomes of the key, by what came back.
mod outcomes;
/// What would pass beside a lock, on real Envoy.
mod past_a_lock;
/// What operators can switch.
mod policy;
/// The files under `envoy/presets`.
mod presets;
/// The presets of clients that have a key in a place of their own.
mod presets_doors;
/// The presets of receivers of events.
mod presets_events;
/// Gateways that share a Redis.
mod redis;
/// Small holes in what gateways on Redis remember and tell.
mod redis_attack;
/// A store in many parts.
mod redis_cluster;
/// What a store can say instead of an answer.
mod redis_errors;
/// A primary that is lost, and how gateways find the next one.
mod redis_failover;
/// Trouble with that Redis while gateways are under load.
mod redis_faults;
/// The load, and the judge of what came out.
mod redis_load;
/// Gateways that die or sleep, and stores that are away or forget.
mod redis_losses;
/// What may be read in Redis, and by whom.
mod redis_secrets;

mod redis_streams;
/// First execution and replay.
mod replay;
/// Answers of odd shapes, as they come first and as they come again.
mod representations;
/// Replays, shielded answers and look-ups on a gateway that works on every local reply.
mod restored;
/// Duplicates that come while the first request runs, alone and in crowds.
mod running;
/// Who shares a key with whom.
mod scope;
/// Executions that the gateway itself carries out, whatever their clients do.
mod shielded;
/// What passes through a shielded execution, and what does not.
mod shielded_bytes;
/// Shielded executions at gateways that share a Redis.
mod shielded_redis;
/// Requests that are signed anew for each try.
mod signatures;
/// The same content under another key.
mod similar;
/// What records, connections and operations there are of how many requests.
mod sizing;
/// What somebody who means harm may send, or may put into the store.
mod threats;
mod tracing;
/// Outcomes nobody knows, and the attempts that follow them.
mod unknown;
/// Filters in front that verify who is asking.
mod verifiers;
/// Two verified subjects behind jwt_authn, in each of its settings.
mod verifiers_jwt;
/// People who log in at oauth2.
mod verifiers_oauth2;
/// Duplicates that wait for the attempt that runs.
mod waiting;
/// How many duplicates may wait.
mod waiting_bounds;
/// Many answers at the same moment.
mod waiting_bursts;
/// Clients and timers that do not wait that long.
mod waiting_clients;
/// Waiting while gateways and stores go away.
mod waiting_losses;
/// Waiting while the listener is replaced.
mod waiting_updates;
/// Each way to a service: TCP, TLS, a Unix domain socket, HTTP/2.
mod ways;
/// Whose an answer's idempotency fields are.
mod whose;
