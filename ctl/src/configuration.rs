//! A gateway's configuration, as far as it tells where operations are and under which names.
//!
//! Its one rule: the filter's own parser and machine read it, so names here are names there.
//! It does not know the store.

use std::fs;

use check_config::request::Given;
use check_config::{input, locate, trace};
use envoy_idempotency::config::{Config, Document, Store};
use serde_json::{Value, json};

use crate::Failed;
use crate::arguments::{Arguments, Request};
use crate::output::{Answer, Said};

/// The gateway's configuration in the file that is given; none where none is.
pub fn read(arguments: &Arguments) -> Result<Option<Config>, Failed> {
    let Some(file) = &arguments.config else { return Ok(None) };
    let shown = file.display();
    let text = fs::read_to_string(file).map_err(|error| format!("{shown} cannot be read: {error}"))?;
    let input = input::parse(text.trim_start_matches('\u{feff}')).map_err(|why| format!("{shown} {why}"))?;
    let mut configs = Vec::new();
    for found in locate::find(&input) {
        let document = found.document.map_err(|why| format!("{shown}: {why}"))?;
        // An operator plugin's store is its gateway's, and its token does not matter here.
        let tree: Value = serde_json::from_str(&document).unwrap_or_default();
        if !tree["operator"].is_null() {
            continue;
        }
        match Document::parse(document.as_bytes(), &|name| std::env::var(name).ok()) {
            Ok(Document::Gateway(config)) => configs.push(*config),
            Ok(_) => {}
            Err(error) => return Err(format!("{shown}: {error}")),
        }
    }
    match (configs.pop(), configs.is_empty()) {
        (Some(config), true) => Ok(Some(config)),
        (Some(_), false) => Err(format!("{shown} configures several gateways: give the document of one alone")),
        (None, _) => Err(format!("{shown} configures no gateway")),
    }
}

/// What stands in front of every Redis key.
pub fn prefix(arguments: &Arguments, config: Option<&Config>) -> String {
    let configured = config.and_then(|config| match &config.store {
        Store::Redis(redis) => Some(redis.prefix.clone()),
        Store::Local { .. } => None,
    });
    arguments.prefix.clone().or(configured).unwrap_or_else(|| "idem:".to_owned())
}

/// Under which name a request's operation is kept.
pub fn name(arguments: &Arguments, request: &Request) -> Result<Said, Failed> {
    let (config, given) = asked(arguments, request)?;
    // On standard error, because standard output is the name alone.
    for what in trace::missing(&config, &given) {
        eprintln!("idempotencyctl: the request lacks a {what}");
    }
    let Some(name) = trace::name(&config, &given) else {
        let why = "No record is kept of this request: `idempotencyctl match` says why.\n";
        return Ok(Said { text: why.to_owned(), json: json!({ "operation": null }), answer: Answer::No });
    };
    let name = name.hex();
    let key = format!("{}{name}", prefix(arguments, Some(&config)));
    let in_redis = matches!(config.store, Store::Redis(_));
    Ok(Said {
        text: format!("{name}\n"),
        json: json!({ "operation": name, "key": in_redis.then_some(key) }),
        answer: Answer::Yes,
    })
}

/// Which rule takes a request, and what becomes of it.
pub fn matched(arguments: &Arguments, request: &Request) -> Result<Said, Failed> {
    let (config, given) = asked(arguments, request)?;
    let lines = trace::lines(&config, &given);
    Ok(Said::members(lines.into_iter().map(|(label, said)| (label, said.into())).collect()))
}

fn asked(arguments: &Arguments, request: &Request) -> Result<(Config, Given), Failed> {
    let config = read(arguments)?.ok_or("give the gateway's configuration: --config FILE")?;
    Ok((config, Given::parse(&request.line, &request.headers, request.body.clone())?))
}
