//! Whether and how hard to think: every dialect says it in fields of its own.
//!
//! What a request says beats what the model's name says, and that beats the server's default. "Off" wins over
//! any effort. A word for an effort that we do not know means the usual.

use crate::error::ApiError;
use crate::fields::{Fields, kind};
use serde_json::Value;

/// What a request says about thinking.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Think {
    /// Yes or no.
    pub on: Option<bool>,
    /// How hard.
    pub effort: Option<String>,
    /// The most tokens of reasoning.
    pub budget: Option<usize>,
}

impl Think {
    /// Reads every dialect's fields.
    ///
    /// # Errors
    ///
    /// If one is of a wrong type.
    pub fn read(fields: &Fields<'_>) -> Result<Think, ApiError> {
        let mut think = Think::default();
        match fields.get("thinking") {
            None => {}
            Some(Value::Bool(on)) => think.switch(*on),
            Some(Value::Object(object)) => {
                let inner = Fields::new(object, "thinking.");
                let kind = inner.text("type")?.ok_or_else(|| ApiError::missing("thinking.type"))?;
                think.switch(kind != "disabled");
                think.limit(inner.whole("budget_tokens", 0..)?);
            }
            Some(other) => {
                let problem = format!("{} is given, an object with a type was expected", kind(other));
                return Err(ApiError::invalid("thinking", problem));
            }
        }
        think.effort(fields, "reasoning_effort")?;
        for name in ["reasoning", "output_config", "chat_template_kwargs"] {
            // `reasoning` is also the text of a message in some dialects; only an object is a wish.
            let Some(object) = fields.object(name)? else { continue };
            let path = format!("{name}.");
            let inner = Fields::new(object, &path);
            for switch in ["enabled", "thinking", "enable_thinking"] {
                if let Some(on) = inner.flag(switch)? {
                    think.switch(on);
                }
            }
            think.effort(&inner, "effort")?;
            think.effort(&inner, "reasoning_effort")?;
            think.limit(inner.whole("max_tokens", 0..)?);
        }
        if let Some(on) = fields.flag("enable_thinking")? {
            think.switch(on);
        }
        match fields.get("think") {
            Some(Value::Bool(on)) => think.switch(*on),
            Some(_) => think.effort(fields, "think")?,
            None => {}
        }
        think.limit(fields.whole("thinking_budget", 0..)?);
        Ok(think)
    }

    /// What a model's name asks for.
    pub fn of_model(name: &str) -> Think {
        let name = name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
        let ends = |words: &[&str]| words.iter().any(|word| name.ends_with(word));
        let mut think = Think::default();
        if name == "deepseek-chat" || ends(&["-nothink", ":nothink", "-no-think"]) {
            think.switch(false);
        } else if name == "deepseek-reasoner" || ends(&["-think", ":think", "-thinking"]) {
            think.switch(true);
        } else if ends(&["-think-max", "-max", ":max"])
            && !name.starts_with("claude")
            && !name.starts_with("gpt")
        {
            think.switch(true);
            think.effort = Some("max".to_owned());
        }
        think
    }

    /// This, and where it is silent, `other`.
    pub fn or(self, other: Think) -> Think {
        let silent = self.on.is_none() && self.effort.is_none();
        let (on, effort) = if silent { (other.on, other.effort) } else { (self.on, self.effort) };
        Think { on, effort, budget: self.budget.or(other.budget) }
    }

    /// "Off" is never taken back.
    fn switch(&mut self, on: bool) {
        self.on = Some(on && self.on != Some(false));
    }

    /// No tokens to think in means not to think.
    fn limit(&mut self, budget: Option<i64>) {
        match budget {
            Some(0) => self.switch(false),
            Some(tokens) => self.budget = Some(usize::try_from(tokens).unwrap_or(usize::MAX)),
            None => {}
        }
    }

    fn effort(&mut self, fields: &Fields<'_>, field: &str) -> Result<(), ApiError> {
        let effort = match fields.get(field) {
            None => return Ok(()),
            // A scale of 1 to 100, as later models have it.
            Some(Value::Number(number)) => match number.as_f64().unwrap_or(50.0) {
                x if x <= 0.0 => "none",
                x if x >= 100.0 => "max",
                x if x <= 50.0 => "low",
                _ => "high",
            },
            Some(_) => fields.text(field)?.unwrap_or_default(),
        };
        match effort {
            "none" | "off" | "disabled" => self.switch(false),
            _ if self.effort.is_none() => self.effort = Some(effort.to_owned()),
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(body: Value) -> (Option<bool>, Option<String>, Option<usize>) {
        let think = Think::read(&Fields::of_body(&body).unwrap()).unwrap();
        (think.on, think.effort, think.budget)
    }

    #[test]
    fn every_dialect_is_understood() {
        let effort = |word: &str| (None, Some(word.to_owned()), None);
        let (off, on) = ((Some(false), None, None), (Some(true), None, None));
        assert_eq!(read(json!({})), (None, None, None));
        assert_eq!(read(json!({"thinking": {"type": "disabled"}})), off);
        assert_eq!(read(json!({"thinking": {"type": "adaptive"}})), on);
        assert_eq!(
            read(json!({"thinking": {"type": "enabled", "budget_tokens": 99}})),
            (Some(true), None, Some(99))
        );
        assert_eq!(read(json!({"thinking": {"type": "enabled", "budget_tokens": 0}})), off);
        assert_eq!(read(json!({"reasoning_effort": "none"})), off);
        assert_eq!(read(json!({"reasoning_effort": null})), (None, None, None));
        assert_eq!(read(json!({"reasoning_effort": "galactic"})), effort("galactic"));
        assert_eq!(read(json!({"reasoning": {"effort": "max", "summary": "auto"}})), effort("max"));
        assert_eq!(read(json!({"reasoning": {"enabled": false, "effort": "high"}})).0, Some(false));
        assert_eq!(read(json!({"reasoning": {"max_tokens": 7}})), (None, None, Some(7)));
        assert_eq!(read(json!({"output_config": {"effort": "low"}})), effort("low"));
        assert_eq!(read(json!({"chat_template_kwargs": {"thinking": false}})), off);
        assert_eq!(read(json!({"chat_template_kwargs": {"enable_thinking": true}})), on);
        assert_eq!(read(json!({"enable_thinking": false})), off);
        assert_eq!(read(json!({"think": "medium"})), effort("medium"));
        assert_eq!(read(json!({"think": true})), on);
        assert_eq!(
            read(json!({"thinking": {"type": "disabled"}, "reasoning_effort": "high", "think": true})).0,
            Some(false)
        );
    }

    #[test]
    fn a_name_can_ask_for_thinking() {
        let on = |name: &str| Think::of_model(name).on;
        assert_eq!(on("deepseek-chat"), Some(false));
        assert_eq!(on("openai/deepseek-v4-flash:nothink"), Some(false));
        assert_eq!(on("deepseek-reasoner"), Some(true));
        assert_eq!(on("deepseek-v4-flash-max"), Some(true));
        assert_eq!(on("deepseek-v4-flash"), None);
        assert_eq!(on("gpt-5.1-codex-max"), None);
        let asked = Think { effort: Some("low".into()), ..Think::default() };
        assert_eq!(asked.or(Think::of_model("deepseek-chat")).on, None);
    }
}
