//! The numbers of a request, the same in every API: how tokens are chosen, how many, and when to stop.

use crate::error::ApiError;
use crate::fields::{Fields, kind, whole};
use crate::options::Options;
use engine::Sampling;
use engine::random::fresh_seed;
use serde_json::Value;

/// Most stop strings.
const MAX_STOPS: usize = 16;

/// Names of the token limit, the newest first: that one counts.
const LIMITS: [&str; 4] = ["max_output_tokens", "max_completion_tokens", "max_tokens", "n_predict"];

/// Fields of other servers that would change the answer and that nothing here carries out, and the number that means
/// "off" besides 0.
const NOT_DONE: [(&str, f64); 15] = [
    ("allowed_token_ids", 0.0),
    ("bad_words", 0.0),
    ("dry_multiplier", 0.0),
    ("dynatemp_range", 0.0),
    ("include_stop_str_in_output", 0.0),
    ("mirostat", 0.0),
    ("prompt_logprobs", 0.0),
    ("stop_token_ids", 0.0),
    ("tfs_z", 1.0),
    ("top_a", 0.0),
    ("top_n_sigma", -1.0),
    ("truncate_prompt_tokens", 0.0),
    ("typical_p", 1.0),
    ("use_beam_search", 0.0),
    ("xtc_probability", 0.0),
];

/// Most replies to one request.
pub const MAX_CHOICES: usize = 8;

/// How to write a reply.
#[derive(Clone, Debug)]
pub struct Params {
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// What the choice depends on besides.
    pub seed: u64,
    /// Most tokens, reasoning included.
    pub max_tokens: Option<usize>,
    /// What ends the content.
    pub stop: Vec<String>,
    /// How many replies.
    pub n: usize,
    /// How many alternatives to report with each token.
    pub logprobs: Option<usize>,
    /// Whether the reply is sent as it is written.
    pub stream: bool,
    /// Least tokens, if the operator allows that; see [`Request::min_tokens`](engine::Request::min_tokens).
    pub min_tokens: usize,
}

impl Params {
    /// Reads what all APIs have in common. What is absent is as the operator has decided.
    ///
    /// - `least`: the lowest limit of tokens that makes sense in the API
    ///
    /// # Errors
    ///
    /// If a value is of a wrong type or out of range.
    pub fn read(
        fields: &Fields<'_>,
        least: i64,
        options: &Options,
        vocab: usize,
    ) -> Result<Params, ApiError> {
        refuse_extensions(fields)?;
        Ok(Params {
            sampling: sampling(fields, &options.sampling, vocab)?,
            seed: seed(fields)?.unwrap_or_else(fresh_seed),
            max_tokens: limit(fields, least)?,
            stop: stop(fields)?,
            n: fields.whole("n", 1..=MAX_CHOICES as i64)?.map_or(1, |n| n as usize),
            logprobs: None,
            stream: fields.flag("stream")?.unwrap_or(false),
            min_tokens: min_tokens(fields, options)?,
        })
    }
}

/// The most tokens to write.
fn limit(fields: &Fields<'_>, least: i64) -> Result<Option<usize>, ApiError> {
    let mut most = None;
    for name in LIMITS {
        // llama.cpp's way to say "as many as fit".
        let endless = name == "n_predict" && fields.get(name).and_then(whole).is_some_and(|n| n < 0);
        let huge = fields.get(name).and_then(Value::as_f64).is_some_and(|n| n >= i64::MAX as f64);
        let given = match (endless, huge) {
            (true, _) => None,
            (false, true) => Some(i64::MAX),
            _ => fields.whole(name, least..)?,
        };
        most = most.or(given);
    }
    Ok(most.map(|n| usize::try_from(n).unwrap_or(usize::MAX)))
}

fn refuse_extensions(fields: &Fields<'_>) -> Result<(), ApiError> {
    for (field, off) in NOT_DONE {
        if fields.get(field).is_some_and(|value| !means_off(value) && value.as_f64() != Some(off)) {
            return Err(ApiError::unsupported(field, "not supported by this server"));
        }
    }
    Ok(())
}

fn means_off(value: &Value) -> bool {
    match value {
        Value::Bool(on) => !on,
        Value::Array(list) => list.is_empty(),
        other => other.as_f64() == Some(0.0),
    }
}

/// `ignore_eos` and `min_tokens`, which benchmarks want.
fn min_tokens(fields: &Fields<'_>, options: &Options) -> Result<usize, ApiError> {
    if !options.length_fields {
        for field in ["ignore_eos", "min_tokens"] {
            if fields.get(field).is_some_and(|value| !means_off(value)) {
                let problem = "not allowed by this server; its option --allow-ignore-eos does";
                return Err(ApiError::unsupported(field, problem));
            }
        }
        return Ok(0);
    }
    if fields.flag("ignore_eos")? == Some(true) {
        return Ok(usize::MAX);
    }
    Ok(fields.whole("min_tokens", 0..)?.map_or(0, |n| usize::try_from(n).unwrap_or(usize::MAX)))
}

fn sampling(fields: &Fields<'_>, defaults: &Sampling, vocab: usize) -> Result<Sampling, ApiError> {
    let number = |name: &str, range| Ok::<_, ApiError>(fields.number(name, range)?.map(|x| x as f32));
    let temperature = number("temperature", 0.0..=2.0)?;
    let top_p = fields.number("top_p", (std::ops::Bound::Excluded(0.0), std::ops::Bound::Included(1.0)))?;
    // Who chooses a temperature has a distribution in mind, and cuts its tail with a field of its own.
    let usual_min_p = if temperature.is_some() { 0.0 } else { defaults.min_p };
    let repetition = match number("repetition_penalty", 0.01..=100.0)? {
        None => number("repeat_penalty", 0.01..=100.0)?,
        given => given,
    };
    Ok(Sampling {
        temperature: temperature.unwrap_or(defaults.temperature),
        top_k: fields.whole("top_k", -1..)?.map_or(defaults.top_k, |k| usize::try_from(k).unwrap_or(0)),
        // What is above 0 stays so in fewer digits.
        top_p: top_p.map_or(defaults.top_p, |p| (p as f32).max(f32::MIN_POSITIVE)),
        min_p: number("min_p", 0.0..=1.0)?.unwrap_or(usual_min_p),
        repetition_penalty: repetition.unwrap_or(defaults.repetition_penalty),
        presence_penalty: number("presence_penalty", -2.0..=2.0)?.unwrap_or(defaults.presence_penalty),
        frequency_penalty: number("frequency_penalty", -2.0..=2.0)?.unwrap_or(defaults.frequency_penalty),
        bias: bias(fields, vocab)?,
    })
}

/// `{"1234": -100}`: token ids as strings.
fn bias(fields: &Fields<'_>, vocab: usize) -> Result<Vec<(u32, f32)>, ApiError> {
    let Some(object) = fields.object("logit_bias")? else { return Ok(Vec::new()) };
    let mut bias = Vec::with_capacity(object.len());
    for (token, value) in object {
        let id = token.parse::<u32>().ok().filter(|&id| (id as usize) < vocab).ok_or_else(|| {
            let problem = format!("keys are token ids from 0 to {}", vocab.saturating_sub(1));
            ApiError::invalid("logit_bias", problem)
        })?;
        let value = value
            .as_f64()
            .filter(|x| (-100.0..=100.0).contains(x))
            .ok_or_else(|| ApiError::invalid("logit_bias", "values are numbers from -100 to 100"))?;
        bias.push((id, value as f32));
    }
    Ok(bias)
}

/// Any integer of 64 bits.
fn seed(fields: &Fields<'_>) -> Result<Option<u64>, ApiError> {
    // -1 is what some clients send for "any".
    Ok(fields.whole("seed", ..)?.filter(|&seed| seed != -1).map(|seed| seed as u64))
}

fn stop(fields: &Fields<'_>) -> Result<Vec<String>, ApiError> {
    let mut stops = Vec::new();
    for name in ["stop", "stop_sequences"] {
        match fields.get(name) {
            None => {}
            Some(Value::String(text)) => stops.push(text.clone()),
            Some(Value::Array(list)) => {
                for item in list {
                    let text = item.as_str().ok_or_else(|| {
                        ApiError::invalid(
                            name,
                            format!("{} is in the list, strings were expected", kind(item)),
                        )
                    })?;
                    stops.push(text.to_owned());
                }
            }
            Some(other) => {
                let problem = format!("{} is given, a string or a list of strings was expected", kind(other));
                return Err(ApiError::invalid(name, problem));
            }
        }
        if stops.len() > MAX_STOPS {
            return Err(ApiError::invalid(name, format!("more than {MAX_STOPS} stop strings")));
        }
        if stops.iter().any(|stop| stop.len() > 4096) {
            return Err(ApiError::invalid(name, "a stop string is longer than 4096 bytes"));
        }
    }
    stops.retain(|stop| !stop.is_empty());
    Ok(stops)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(body: Value) -> Result<Params, String> {
        let fields = Fields::of_body(&body).unwrap();
        Params::read(&fields, 1, &Options::default(), 100).map_err(|e| e.param.unwrap())
    }

    #[test]
    fn the_newer_name_of_the_limit_counts() {
        assert_eq!(read(json!({"max_tokens": 5})).unwrap().max_tokens, Some(5));
        assert_eq!(read(json!({"max_tokens": 5, "max_completion_tokens": 7})).unwrap().max_tokens, Some(7));
        assert_eq!(read(json!({"max_tokens": 5, "max_output_tokens": 7})).unwrap().max_tokens, Some(7));
        assert_eq!(read(json!({"n_predict": 5})).unwrap().max_tokens, Some(5));
        for none in [json!({}), json!({"max_tokens": null}), json!({"n_predict": -1})] {
            assert_eq!(read(none).unwrap().max_tokens, None);
        }
        assert_eq!(read(json!({"max_tokens": u64::MAX})).unwrap().max_tokens, Some(i64::MAX as usize));
        assert_eq!(read(json!({"max_tokens": 0})).unwrap_err(), "max_tokens");
    }

    #[test]
    fn what_is_not_done_is_refused_unless_it_is_off() {
        for off in [
            json!({"typical_p": 1, "top_n_sigma": -1, "stop_token_ids": [], "use_beam_search": false}),
            json!({"mirostat": 0, "xtc_probability": 0.0, "bad_words": null}),
        ] {
            assert!(read(off).is_ok());
        }
        for (field, value) in [
            ("typical_p", json!(0.9)),
            ("stop_token_ids", json!([7])),
            ("include_stop_str_in_output", json!(true)),
            ("top_n_sigma", json!(1)),
            ("truncate_prompt_tokens", json!("all")),
        ] {
            assert_eq!(read(json!({ field: value })).unwrap_err(), field);
        }
    }

    #[test]
    fn a_given_temperature_is_not_cut() {
        assert_eq!(read(json!({})).unwrap().sampling, Sampling::default());
        assert_eq!(read(json!({"temperature": 1})).unwrap().sampling.min_p, 0.0);
        assert_eq!(read(json!({"temperature": 1, "min_p": 0.1})).unwrap().sampling.min_p, 0.1);
        assert_eq!(read(json!({"top_k": -1})).unwrap().sampling.top_k, 0);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let check = |body: Value, name: &str| assert_eq!(read(body).unwrap_err(), name);
        check(json!({"temperature": 2.1}), "temperature");
        check(json!({"temperature": "hot"}), "temperature");
        check(json!({"top_p": 0}), "top_p");
        check(json!({"n": 9}), "n");
        check(json!({"n": 0}), "n");
        check(json!({"logit_bias": {"100": 1}}), "logit_bias");
        check(json!({"logit_bias": {"a": 1}}), "logit_bias");
        check(json!({"logit_bias": {"1": 101}}), "logit_bias");
        check(json!({"stop": 3}), "stop");
        check(json!({"stop": ["a", null]}), "stop");
        check(json!({"stop": vec!["x"; 17]}), "stop");
        check(json!({"max_tokens": -1}), "max_tokens");
        check(json!({"max_tokens": 1.5}), "max_tokens");
        check(json!({"ignore_eos": true}), "ignore_eos");
        check(json!({"min_tokens": 3}), "min_tokens");
    }

    #[test]
    fn the_least_length_is_read_where_the_operator_allows_it() {
        let options = Options { length_fields: true, ..Options::default() };
        let check = |body: Value, want: Option<usize>| {
            let fields = Fields::of_body(&body).unwrap();
            let read = Params::read(&fields, 0, &options, 100).ok();
            assert_eq!(read.map(|params| params.min_tokens), want, "{body}");
        };
        check(json!({}), Some(0));
        check(json!({"min_tokens": 5}), Some(5));
        check(json!({"min_tokens": 5, "ignore_eos": true}), Some(usize::MAX));
        check(json!({"min_tokens": -1}), None);
        check(json!({"ignore_eos": 1}), None);
    }

    #[test]
    fn a_seed_may_have_any_sign() {
        assert_eq!(read(json!({"seed": -2})).unwrap().seed, -2i64 as u64);
        assert_eq!(read(json!({"seed": u64::MAX})).unwrap_err(), "seed");
        assert_eq!(read(json!({"stop": ["", "a"], "stop_sequences": "b"})).unwrap().stop, ["a", "b"]);
    }
}
