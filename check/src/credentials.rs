//! What in front of the filter takes away, or may take away, what tells callers apart.
//!
//! Its one rule: an error is what the file says outright; what a program or a service decides is a warning.
//! It does not know what one filter does.

use envoy_idempotency::config::Config;
use serde_json::Value;

use crate::deeds::{Act, Fate, fate, is_program, may_change, of_filters};
use crate::identity;
use crate::istio;
use crate::mutations;
use crate::places::{Carrier, Chain, Found};
use crate::scope::{Enforced, Manner, Reading, Spot, enforced};
use crate::surroundings::{kind, name};
use crate::tokens;
use crate::ways::{Wanted, Way, ways};
use crate::words::all;
use crate::world::{World, collect, list};

/// What is said of a place where the filter is configured.
#[derive(Default)]
pub struct Findings {
    pub errors: Vec<String>,
    pub warnings: Vec<String>,
}

/// Every finding about who is asking. `document` is what the configuration was read from.
pub fn findings(found: &Found<'_>, config: &Config, document: &Value, trees: &[Value]) -> Findings {
    let rules = enforced(config, document);
    match found.carrier {
        Carrier::Chain(chain) => of_chain(chain, &rules, &World::of(trees)),
        Carrier::EnvoyFilter(_) | Carrier::WasmPlugin(_) => of_istio(found.carrier, &rules, trees),
        Carrier::Unknown => Findings::default(),
    }
}

fn of_chain(chain: Chain<'_>, rules: &[Enforced<'_>], world: &World<'_>) -> Findings {
    let mut losses = Losses::default();
    for rule in rules {
        for way in chain.ways(&rule.wanted) {
            losses.look_for(rule, &before(chain, &way, &rule.wanted), "");
        }
        for (place, acts) in on_the_way_here(chain, rule, world) {
            losses.look_for(rule, &acts, &place);
        }
    }
    let mut warnings = unverified(chain, rules);
    for filter in chain.before() {
        let meets = |rule: &&Enforced<'_>| {
            let mut given = chain.ways(&rule.wanted).filter_map(|way| Some(may_change(filter, &way.given(filter)?)));
            given.any(|may| may)
        };
        warnings.extend(doubt(name(filter), kind(filter), rules.iter().filter(meets)));
    }
    warnings.extend(identity::of_chain(chain, rules));
    Findings { errors: losses.told(), warnings }
}

/// What is done to a request on this way before the filter sees it.
fn before(chain: Chain<'_>, way: &Way<'_>, wanted: &Wanted<'_>) -> Vec<Act> {
    [mutations::of_manager(chain.manager), of_filters(chain.before(), way, wanted)].concat()
}

/// What listeners of the file that lead to this one do to a request, and what is done to it here after that; each with
/// the place of that listener.
fn on_the_way_here(chain: Chain<'_>, rule: &Enforced<'_>, world: &World<'_>) -> Vec<(String, Vec<Act>)> {
    let Some(here) = chain.listener else { return Vec::new() };
    let mut found = Vec::new();
    for listener in world.listeners.iter().filter(|listener| !std::ptr::eq(**listener, here)) {
        let mut managers = Vec::new();
        collect(listener, &|node| node["http_filters"].is_array(), &mut managers);
        for manager in managers {
            for way in ways(manager, &Wanted::anything()).iter().filter(|way| way.leads_on(&rule.wanted)) {
                let leads = |name: &&str| {
                    world.cluster(name).is_some_and(|it| world.leads_to(it).iter().any(|to| std::ptr::eq(*to, here)))
                };
                let Some(cluster) = way.cluster.filter(leads) else { continue };
                let place = format!("listener {}, which leads here by cluster {cluster}: ", name(listener));
                let anything = Wanted::anything();
                let wanted = if way.is_rewritten() { &anything } else { &rule.wanted };
                let mut acts = mutations::of_manager(manager);
                acts.extend(of_filters(list(&manager["http_filters"]), way, wanted));
                acts.extend(mutations::of_router(way, &manager["route_config"]));
                acts.iter_mut().for_each(|act| act.by.insert_str(0, &place));
                acts.extend(before(chain, &Way::unknown(), &rule.wanted));
                found.push((place, acts));
            }
        }
    }
    found
}

/// What is lost of that which rules read: each loss in two halves, between which the rules are named.
#[derive(Default)]
struct Losses<'a> {
    found: Vec<([String; 2], Vec<&'a str>)>,
}

impl<'a> Losses<'a> {
    /// Looks for what the rule reads and these deeds take away, as far as that is done at this place.
    fn look_for(&mut self, rule: &Enforced<'a>, acts: &[Act], place: &str) {
        for reading in &rule.readings {
            let (act, loss, result) = match fate(&reading.spot, acts) {
                Fate::Gone(act) if !act.is_made_good(reading, &rule.readings) => {
                    (act, format!("removes {}", reading.spot.words()), "such callers are not told apart")
                }
                Fate::OneForAll(act) => {
                    (act, format!("writes one {} for all requests", reading.spot.words()), "all callers are one")
                }
                _ => continue,
            };
            if !act.by.starts_with(place) {
                continue;
            }
            let read = match reading.words() {
                words if words == reading.spot.words() => "it".to_owned(),
                words => words,
            };
            let halves = [
                format!("{} {loss}{}, and scope.caller of ", act.by, act.how),
                format!(" reads {read}, so {result}: {}", act.mend),
            ];
            match self.found.iter_mut().find(|(known, _)| *known == halves) {
                Some((_, rules)) if rules.contains(&rule.name) => {}
                Some((_, rules)) => rules.push(rule.name),
                None => self.found.push((halves, vec![rule.name])),
            }
        }
    }

    fn told(self) -> Vec<String> {
        let told = self.found.into_iter().map(|([start, end], rules)| format!("{start}{}{end}", rules_named(&rules)));
        told.collect()
    }
}

/// `rule a`, `rules a and b`.
pub fn rules_named(names: &[&str]) -> String {
    let kind = if names.len() == 1 { "rule" } else { "rules" };
    format!("{kind} {}", all(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()))
}

/// The warnings that a claim or a signer is believed on some way, and nothing there has verified it.
fn unverified(chain: Chain<'_>, rules: &[Enforced<'_>]) -> Vec<String> {
    let kinds: [(Manner, &[&str], &str); 2] = [
        (
            Manner::Claim,
            &["istio_authn", "jwt_authn"],
            "reads jwt_claim, and no filter before this one verifies tokens: a client is whom its token names, forged or \
             not",
        ),
        (
            Manner::Signer,
            &[],
            "reads signer, and no filter before this one can verify signatures (ext_authz, ext_proc, lua or wasm; \
             jwt_authn does not): a client is whom its signature names, forged or not",
        ),
    ];
    let mut warnings = Vec::new();
    for (manner, verifiers, why) in kinds {
        let believes = |rule: &&Enforced<'_>| {
            let is_verified = |way: &Way<'_>| {
                let mut running = chain.before().iter().filter(|filter| way.given(filter).is_some());
                running.any(|filter| verifiers.contains(&kind(filter)) || is_program(filter))
            };
            rule.readings.iter().any(|reading| reading.manner == manner)
                && !chain.ways(&rule.wanted).all(|way| is_verified(&way))
        };
        let names: Vec<_> = rules.iter().filter(believes).map(|rule| rule.name).collect();
        if !names.is_empty() {
            warnings.push(format!("scope.caller of {} {why}", rules_named(&names)));
        }
    }
    warnings
}

/// The warning that a program in front may do anything to what these rules read.
fn doubt<'a>(by: &str, kind: &str, rules: impl Iterator<Item = &'a Enforced<'a>>) -> Option<String> {
    let is_in_head = |reading: &&Reading| !matches!(reading.spot, Spot::Metadata(_));
    let mut names = Vec::new();
    let mut read: Vec<String> = Vec::new();
    for rule in rules {
        let words: Vec<_> = rule.readings.iter().filter(is_in_head).map(|reading| reading.spot.words()).collect();
        if !words.is_empty() {
            names.push(rule.name);
            let new: Vec<_> = words.into_iter().filter(|words| !read.contains(words)).collect();
            read.extend(new);
        }
    }
    let how = match kind {
        "ext_authz" => "what its service answers (x-envoy-auth-headers-to-remove, and headers of its own)",
        "ext_proc" => "what its service answers (remove_headers, set_headers)",
        _ => "its program",
    };
    (!names.is_empty()).then(|| {
        let is = if read.len() == 1 { "is" } else { "are" };
        format!(
            "{by} stands before this filter and can remove or replace credentials by {how}, which the file does not tell: \
             see to it that {}, which scope.caller of {} reads, {is} still there behind it and {is} the caller's own",
            all(&read),
            rules_named(&names)
        )
    })
}

/// What Istio's own resources in the file do to the requests of this EnvoyFilter or WasmPlugin.
fn of_istio(carrier: Carrier<'_>, rules: &[Enforced<'_>], trees: &[Value]) -> Findings {
    let Some(stand) = istio::stand(carrier, trees) else { return Findings::default() };
    let mut acts = Vec::new();
    let mut providers = Vec::new();
    let mut warnings = Vec::new();
    for resource in trees.iter().filter(|resource| stand.shares_workloads_with(resource)) {
        let by = crate::places::kubernetes_name(resource);
        if resource["kind"] == "RequestAuthentication" {
            for (provider, issuer, mend) in tokens::of_istio(resource) {
                acts.extend(tokens::of_provider(&by, &provider, &mend, &format!("the token of issuer {issuer}")));
                providers.push((by.clone(), provider));
            }
        }
        if stand.is_last && resource["kind"] == "AuthorizationPolicy" && resource["spec"]["action"] == "CUSTOM" {
            warnings.extend(doubt(&by, "ext_authz", rules.iter()));
        }
    }
    let mut losses = Losses::default();
    rules.iter().for_each(|rule| losses.look_for(rule, &acts, ""));
    warnings.extend(identity::of_providers(&providers, rules));
    Findings { errors: losses.told(), warnings }
}
