//! What a filter does to the places of a request that scopes read.
//!
//! Its one rule: a deed is what the configuration says outright; what a program or a service decides is only possible.
//! It does not know any rule, nor which filter stands where.

use serde_json::Value;

use crate::bootstrap::{Bootstrap, list};
use crate::injectors;
use crate::lint::{kind, name};
use crate::locate::{is_ours, typed, wasm_plugin};
use crate::mutations;
use crate::scope::{Reading, Spot};
use crate::tokens::{self, Grant};
use crate::wanted::Wanted;
use crate::ways::Way;

/// What becomes of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// A line that is the same in every request is added to what is there.
    AddsOneForAll,
    /// A request without it is refused.
    Demands,
    /// A program or a service may do anything to it.
    MayChange,
    /// It is taken away.
    Removes,
    /// Whatever is there gives way to what is the same in every request.
    WritesOneForAll,
    /// Where there is nothing, it gets what is the same in every request.
    WritesOneForRest,
    /// It gets what is another in each request, so that not even two tries of one have the same.
    WritesAnew,
    /// It gets what tells requests apart.
    Writes,
}

/// Which places a deed is done to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Every place that stands in the head of a request.
    Head,
    /// Headers whose name fits this StringMatcher.
    Matching(Value),
    Spot(Spot),
}

/// One deed, in words that end up in a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    pub deed: Deed,
    pub target: Target,
    /// Who does it: `envoy.filters.http.jwt_authn`, perhaps with the place of its setting.
    pub by: String,
    /// By which setting, in brackets, or when; empty or with a space in front.
    pub how: String,
    /// The line that mends it.
    pub mend: String,
    /// The token that it takes away, where it is one: then how and mend are made of it.
    pub grant: Option<Grant>,
    /// Where what was taken away can be read instead.
    pub heirs: Vec<Heir>,
    /// It is done to a credential that was verified there, so no filter behind will write it again.
    pub is_verified: bool,
}

/// A place that has what was taken away elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heir {
    pub spot: Spot,
    /// It tells callers apart by itself; a single claim other than the subject does not.
    pub is_caller: bool,
}

impl Act {
    /// A deed without more to say.
    pub fn of(deed: Deed, spot: Spot, by: &str) -> Act {
        let (how, mend) = (String::new(), String::new());
        let (target, by) = (Target::Spot(spot), by.to_owned());
        Act { deed, target, by, how, mend, grant: None, heirs: Vec::new(), is_verified: false }
    }

    /// Whether it is done to this place.
    pub fn hits(&self, spot: &Spot) -> bool {
        match (&self.target, spot) {
            (Target::Head, Spot::Metadata(_)) => false,
            (Target::Head, _) => true,
            (Target::Spot(Spot::Header(header)), Spot::Cookie(_)) => header == "cookie",
            (Target::Spot(target), spot) => target == spot,
            (Target::Matching(matcher), Spot::Header(header)) => mutations::fits(matcher, header),
            (Target::Matching(matcher), Spot::Cookie(_)) => mutations::fits(matcher, "cookie"),
            (Target::Matching(_), _) => false,
        }
    }

    /// Whether the scope reads elsewhere what this takes away from the place of a reading.
    pub fn is_made_good(&self, reading: &Reading, readings: &[Reading]) -> bool {
        readings.iter().any(|other| {
            self.heirs.iter().any(|heir| {
                let holds = match (&heir.spot, &other.spot) {
                    (Spot::Metadata(above), Spot::Metadata(path)) => path.starts_with(above),
                    (spot, other) => spot == other,
                };
                holds && (heir.is_caller || other.part == reading.part)
            })
        })
    }
}

/// What became of a place after a row of deeds.
#[derive(Clone)]
pub enum Fate<'a> {
    Anew(&'a Act),
    /// It was there, or the request has ended.
    Demanded,
    /// Each of these may be what has taken it away: one filter takes tokens of several providers.
    Gone(Vec<&'a Act>),
    OneForAll(&'a Act),
    OneForRest(&'a Act),
    /// It is as the client sent it, or the file does not tell.
    Open,
}

/// What became of this place.
pub fn fate<'a>(spot: &Spot, acts: &'a [Act]) -> Fate<'a> {
    let mut fate = Fate::Open;
    for act in acts.iter().filter(|act| act.hits(spot)) {
        fate = match (act.deed, fate) {
            (Deed::Removes, Fate::Gone(others)) if others.iter().all(|it| it.grant.is_some() && it.by == act.by) => {
                Fate::Gone([others, vec![act]].concat())
            }
            (Deed::Removes, _) => Fate::Gone(vec![act]),
            (Deed::WritesOneForAll, _) | (Deed::AddsOneForAll | Deed::WritesOneForRest, Fate::Gone(_)) => {
                Fate::OneForAll(act)
            }
            (Deed::WritesOneForRest, Fate::Open) => Fate::OneForRest(act),
            (Deed::WritesAnew, _) => Fate::Anew(act),
            (Deed::Demands, Fate::Open) => Fate::Demanded,
            (Deed::Writes, _) => Fate::Open,
            (Deed::MayChange, Fate::Gone(before)) if before.iter().all(|it| it.is_verified) => Fate::Gone(before),
            (Deed::MayChange, _) => Fate::Open,
            (Deed::AddsOneForAll | Deed::Demands | Deed::WritesOneForRest, fate) => fate,
        };
    }
    fate
}

/// What these filters do on this way, in their order.
pub fn of_filters(filters: &[Value], way: &Way<'_>, wanted: &Wanted<'_>, bootstrap: &Bootstrap<'_>) -> Vec<Act> {
    let wanted = way.taken_by(wanted);
    let cluster = way.cluster.and_then(|name| bootstrap.cluster(name));
    let of_each = |filter| {
        let given = way.given(filter)?;
        Some([of_filter(filter, &given, &wanted), injectors::of_filter(filter, &given, cluster)].concat())
    };
    filters.iter().filter_map(of_each).flatten().collect()
}

/// What a filter does, given what the layers of the way say, the most specific first.
fn of_filter(filter: &Value, given: &[(&str, &Value)], wanted: &Wanted<'_>) -> Vec<Act> {
    let config = typed(&filter["typed_config"]).map_or(&Value::Null, |(_, config)| config);
    let by = name(filter);
    let here = given.first().map(|(_, config)| *config);
    match kind(filter) {
        "api_key_auth" => of_api_keys(by, config, here),
        "basic_auth" => {
            let header = config["forward_username_header"].as_str().filter(|name| !name.is_empty());
            let written = header.map(|header| Act::of(Deed::Writes, Spot::header(header), by)).into_iter();
            written.chain([Act::of(Deed::Demands, password(config), by)]).collect()
        }
        "ext_authz" => {
            let written = written_by_service(config).map(|header| Act::of(Deed::Writes, Spot::header(header), by));
            possible(by, filter, given).into_iter().chain(written).collect()
        }
        "header_mutation" => mutations::of_filter(by, config, given),
        "header_to_metadata" => of_metadata(by, config),
        "jwt_authn" => tokens::of_filter(by, config, here, wanted),
        "oauth2" => of_oauth2(by, config, given),
        _ => possible(by, filter, given).into_iter().collect(),
    }
}

fn possible(by: &str, filter: &Value, given: &[(&str, &Value)]) -> Option<Act> {
    let act = Act { target: Target::Head, ..Act::of(Deed::MayChange, Spot::Query(String::new()), by) };
    may_change(filter, given).then_some(act)
}

/// Whether a program or a service decides here what becomes of a request's head.
pub fn may_change(filter: &Value, given: &[(&str, &Value)]) -> bool {
    let config = typed(&filter["typed_config"]).map_or(&Value::Null, |(_, config)| config);
    let is_left_alone = match kind(filter) {
        "ext_authz" => config["decoder_header_mutation_rules"]["disallow_all"] == true,
        "ext_proc" => {
            let mode = &config["processing_mode"];
            let sees_body = mode["request_body_mode"].as_str().is_some_and(|mode| mode != "NONE");
            let sees_nothing = mode["request_header_mode"] == "SKIP" && !sees_body;
            config["mutation_rules"]["disallow_all"] == true
                || (sees_nothing && config["allow_mode_override"] != true && given.is_empty())
        }
        "lua" => {
            let program = [&config["inline_code"], &config["default_source_code"]["inline_string"]];
            let program = program.into_iter().find_map(Value::as_str);
            given.is_empty() && program.is_some_and(|text| !text.contains("envoy_on_request"))
        }
        _ => false,
    };
    is_program(filter) && !is_left_alone
}

/// Whether a filter is a program, or leaves it to one what becomes of a request; this one is none.
pub fn is_program(filter: &Value) -> bool {
    let is_own = || wasm_plugin(&filter["typed_config"]).is_some_and(|plugin| is_ours(&plugin));
    PROGRAMS.contains(&kind(filter)) && !is_own()
}

/// The headers that an HTTP service of `ext_authz` may write, as far as they are named.
pub fn written_by_service(config: &Value) -> impl Iterator<Item = &str> {
    let response = &config["http_service"]["authorization_response"];
    let lists = ["allowed_upstream_headers", "allowed_upstream_headers_to_append"].map(|it| &response[it]["patterns"]);
    lists.into_iter().flat_map(list).filter_map(|pattern| pattern["exact"].as_str())
}

/// `forwarding` and `key_sources` of this way: those of the route, or the filter's own.
pub fn of_way<'a>(config: &'a Value, here: Option<&'a Value>, member: &str) -> &'a Value {
    match here.map(|here| &here[member]) {
        Some(here) if !here.is_null() => here,
        _ => &config[member],
    }
}

/// Where `basic_auth` looks for a name and a password.
pub fn password(config: &Value) -> Spot {
    let source = config["authentication_header"].as_str().filter(|name| !name.is_empty());
    Spot::header(source.unwrap_or("authorization"))
}

/// The places in which `api_key_auth` looks for a key.
pub fn key_sources(sources: &Value) -> impl Iterator<Item = Spot> {
    list(sources).iter().filter_map(|source| {
        let text = |member: &str| source[member].as_str().filter(|text| !text.is_empty());
        let header = text("header").map(Spot::header);
        let query = || text("query").map(|name| Spot::Query(name.to_owned()));
        let cookie = || text("cookie").map(|name| Spot::Cookie(name.to_owned()));
        header.or_else(query).or_else(cookie)
    })
}

fn of_api_keys(by: &str, config: &Value, here: Option<&Value>) -> Vec<Act> {
    let forwarding = of_way(config, here, "forwarding");
    let client = forwarding["header"].as_str().filter(|name| !name.is_empty()).map(Spot::header);
    let mut acts: Vec<_> = client.iter().map(|spot| Act::of(Deed::Writes, spot.clone(), by)).collect();
    if forwarding["hide_credentials"] == true {
        let mend = match &client {
            Some(spot) => format!("read {} in scope.caller, or set forwarding.hide_credentials: false", spot.part()),
            None => "set `forwarding: {header: x-client-id, hide_credentials: true}` and read {\"header\": \
                     \"x-client-id\"} in scope.caller"
                .to_owned(),
        };
        acts.extend(key_sources(of_way(config, here, "key_sources")).map(|spot| Act {
            how: " (forwarding.hide_credentials: true)".to_owned(),
            mend: mend.clone(),
            heirs: client.iter().map(|spot| Heir { spot: spot.clone(), is_caller: true }).collect(),
            is_verified: true,
            ..Act::of(Deed::Removes, spot, by)
        }));
    }
    acts
}

/// A rule with `remove` takes a header away once its value is in the metadata; of a cookie it takes nothing.
fn of_metadata(by: &str, config: &Value) -> Vec<Act> {
    let rules = list(&config["request_rules"]).iter();
    let removing = rules.filter(|rule| rule["remove"] == true && rule["on_header_present"].is_object());
    let acts = removing.filter_map(|rule| {
        let spot = Spot::header(rule["header"].as_str()?);
        let pair = &rule["on_header_present"];
        let namespace = pair["metadata_namespace"].as_str().filter(|it| !it.is_empty()).unwrap_or("envoy.lb");
        let kept = Spot::Metadata(vec![namespace.to_owned(), pair["key"].as_str()?.to_owned()]);
        Some(Act {
            how: " (remove: true)".to_owned(),
            mend: format!("set remove: false, or read {} in scope.caller", kept.part()),
            heirs: vec![Heir { spot: kept, is_caller: true }],
            ..Act::of(Deed::Removes, spot, by)
        })
    });
    acts.collect()
}

/// It takes `authorization` away, unless it is to keep it, and may write a token of its own there. Its cookies stay.
fn of_oauth2(by: &str, config: &Value, given: &[(&str, &Value)]) -> Vec<Act> {
    let config = given.first().map_or(config, |(_, config)| config);
    let config = &config["config"];
    // Without one it does nothing.
    if !config.is_object() {
        return Vec::new();
    }
    let mut acts = Vec::new();
    let passes_tokens = list(&config["pass_through_matcher"]).iter().any(|it| it["name"] == "authorization");
    if config["preserve_authorization_header"] != true && !passes_tokens {
        let names = &config["credentials"]["cookie_names"];
        let cookies = [("bearer_token", "BearerToken"), ("oauth_hmac", "OauthHMAC"), ("id_token", "IdToken")];
        let heirs = cookies.map(|(member, usual)| {
            let name = names[member].as_str().filter(|name| !name.is_empty()).unwrap_or(usual);
            Heir { spot: Spot::Cookie(name.to_owned()), is_caller: true }
        });
        acts.push(Act {
            how: " (preserve_authorization_header is not set)".to_owned(),
            mend: "set forward_bearer_token: true, which puts the verified token there, or preserve_authorization_header: \
                   true, where a filter behind verifies what clients send"
                .to_owned(),
            heirs: heirs.to_vec(),
            is_verified: true,
            ..Act::of(Deed::Removes, Spot::header("authorization"), by)
        });
    }
    let id_token = &config["forward_id_token"];
    let header = id_token["header"].as_str().filter(|name| !name.is_empty()).unwrap_or("authorization");
    let written = [(config["forward_bearer_token"] == true, "authorization"), (id_token.is_object(), header)];
    let written = written.into_iter().filter(|(is_set, _)| *is_set);
    acts.extend(written.map(|(_, header)| Act::of(Deed::Writes, Spot::header(header), by)));
    acts
}

const PROGRAMS: [&str; 6] = ["dynamic_modules", "ext_authz", "ext_proc", "golang", "lua", "wasm"];
