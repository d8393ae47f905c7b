//! The facts that determine the result of a protocol: equal facts, equal results.

use super::plan::Plan;
use crate::data::Dataset;
use crate::error::Result;
use crate::files::fingerprint::fingerprint;
use crate::files::weights::WeightFile;
use crate::nn::Net;
use serde_json::{Map, Value, json};

/// All that determines the result but for the shard; `weights` is [`weights_fingerprint`]'s.
pub fn evaluation(
    plan: &Plan,
    arch: &str,
    test: &Dataset,
    weights: &str,
    precision: &str,
) -> Map<String, Value> {
    let attacks: Vec<&str> = plan.stages.iter().map(|stage| stage.about.as_str()).collect();
    let facts = [
        ("weights", json!(weights)),
        ("data", json!(format!("{} {}", test.name, test.fingerprint()))),
        ("images", json!(test.len())),
        ("norm", json!(plan.params.ball.norm.to_string())),
        ("eps", json!(plan.params.ball.eps)),
        ("seed", json!(plan.params.seed)),
        ("version", json!(plan.version)),
        ("attacks", json!(attacks.join("; "))),
        ("architecture", json!(arch)),
        ("precision", json!(precision)),
    ];
    facts.map(|(key, value)| (key.to_owned(), value)).into_iter().collect()
}

/// A fingerprint of all that a network computes with: weights, normalisation and architecture. Other facts in
/// the file do not change the network.
pub fn weights_fingerprint(net: &Net, file: &WeightFile) -> Result<String> {
    let mut bytes = Vec::new();
    for (name, _, values) in net.export()? {
        bytes.extend(name.bytes());
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }
    let facts =
        ["arch", "mean", "std"].map(|key| file.metadata.get(key).map_or("", String::as_str).as_bytes());
    Ok(fingerprint(&[&bytes, facts[0], b";", facts[1], b";", facts[2]]))
}
