//! Sessions on a tiny model, as short stories.

mod common;

use common::{golden, greedy, load, reply, session};
use engine::{Cancel, Event, Finish, Form, ReplyError, Request, Sampling, SessionError};

const PROMPT: &str = "mini-bf16.short";

#[test]
fn a_greedy_reply_is_the_golden_one() {
    for (file, name) in [("mini-bf16.gguf", "mini-bf16.short"), ("mini-mxfp4.gguf", "mini-mxfp4.mid")] {
        let loaded = load(file);
        let (prompt, want) = golden(name);
        let got = reply(&mut session(&loaded), &prompt, greedy(want.len()));
        assert_eq!((got.tokens, got.finish), (want, Finish::MaxTokens), "{name}");
    }
}

/// The next request contains the conversation so far: only what is new is read.
#[test]
fn a_longer_prompt_is_read_from_where_the_session_stands() {
    let loaded = load("mini-bf16.gguf");
    let (mut prompt, _) = golden(PROMPT);
    let mut session = session(&loaded);
    let first = reply(&mut session, &prompt, greedy(10));
    assert_eq!((first.stats.prompt.cached, first.stats.prompt.computed), (0, prompt.len()));

    prompt.extend(&first.tokens);
    prompt.extend([5, 6, 7]);
    let second = reply(&mut session, &prompt, greedy(10));
    // The last token of the first reply was said, but the model has not read it yet.
    assert_eq!(second.stats.prompt.computed, 1 + 3);
    assert_eq!(second.tokens, reply(&mut common::session(&loaded), &prompt, greedy(10)).tokens);
}

#[test]
fn an_edited_turn_is_read_again_from_where_it_differs() {
    let loaded = load("mini-bf16.gguf");
    let (prompt, _) = golden("mini-bf16.mid");
    let mut session = session(&loaded);
    for edited in [400, 200, 3, 0] {
        session.sync(&prompt, &mut |_, _| {}, &Cancel::new()).unwrap();
        let mut other = prompt.clone();
        other[edited] = (other[edited] + 1) % 100 + 3;
        let got = reply(&mut session, &other, greedy(5));
        assert!(got.stats.prompt.cached <= edited, "edited at {edited}: {:?}", got.stats.prompt);
        let fresh = reply(&mut common::session(&loaded), &other, greedy(5));
        assert_eq!(got.tokens, fresh.tokens, "edited at {edited}");
    }
}

/// Where the rows needed to go on are forgotten, the session goes back to the end of a page, and reads from
/// there what it needs.
#[test]
fn an_edit_far_back_costs_no_more_than_its_page() {
    let loaded = load("mini-bf16.gguf");
    let prompt: Vec<u32> = golden("mini-bf16.mid").0.into_iter().cycle().take(1300).collect();
    let mut session = session(&loaded);
    session.sync(&prompt, &mut |_, _| {}, &Cancel::new()).unwrap();
    for (edited, cached) in [(1290, 1290), (1100, 1024), (1000, 0)] {
        let other = [&prompt[..edited], &[7, 8, 9]].concat();
        let got = reply(&mut session, &other, greedy(3));
        assert_eq!(got.stats.prompt.cached, cached, "edited at {edited}");
        let fresh = reply(&mut common::session(&loaded), &other, greedy(3));
        assert_eq!(got.tokens, fresh.tokens, "edited at {edited}");
    }
}

#[test]
fn asking_again_costs_no_more_than_one_token() {
    let loaded = load("mini-bf16.gguf");
    let (prompt, _) = golden(PROMPT);
    let mut session = session(&loaded);
    let quiet = &mut |_, _| {};
    session.sync(&prompt, quiet, &Cancel::new()).unwrap();
    assert_eq!(session.sync(&prompt, quiet, &Cancel::new()).unwrap().computed, 0);
    let first = reply(&mut session, &prompt, greedy(20));
    let second = reply(&mut session, &prompt, greedy(20));
    assert_eq!(first.tokens, second.tokens);
    assert_eq!(second.stats.prompt.computed, 1);
}

/// A prompt that was stopped half-way is read on from there, with the same result.
#[test]
fn a_stopped_prompt_goes_on_where_it_stopped() {
    let loaded = load("mini-bf16.gguf");
    let (prompt, _) = golden("mini-bf16.mid");
    let want = reply(&mut session(&loaded), &prompt, greedy(5)).tokens;

    let mut session = session(&loaded).with_chunk(50);
    let cancel = Cancel::new();
    let mut stop_at_150 = |done, _| {
        if done == 150 {
            cancel.stop();
        }
    };
    let stopped = session.sync(&prompt, &mut stop_at_150, &cancel);
    assert!(matches!(stopped, Err(SessionError::Cancelled)));
    assert_eq!(session.tokens(), &prompt[..150]);

    let got = reply(&mut session, &prompt, greedy(5));
    assert_eq!(got.stats.prompt.cached, 150);
    assert_eq!(got.tokens, want);
}

/// A reply that is stopped keeps what it has said, and the session can go on from there.
#[test]
fn a_stopped_reply_goes_on_where_it_stopped() {
    let loaded = load("mini-bf16.gguf");
    let (mut prompt, _) = golden(PROMPT);
    let want = reply(&mut session(&loaded), &prompt, greedy(20)).tokens;

    let mut session = session(&loaded);
    let cancel = Cancel::new();
    let mut said = 0;
    let request = Request { logprobs: Some(0), ..greedy(20) };
    let mut stop_after_7 = |event| {
        said += usize::from(matches!(event, Event::Token(_)));
        if said == 7 {
            cancel.stop();
        }
    };
    let first = session.reply(&prompt, request, &cancel, &mut stop_after_7).unwrap();
    assert_eq!((&first.tokens[..], first.finish), (&want[..7], Finish::Cancelled));

    prompt.extend(first.tokens);
    let second = reply(&mut session, &prompt, greedy(13));
    assert_eq!(second.tokens, want[7..]);
}

#[test]
fn a_reply_that_is_stopped_at_once_is_empty() {
    let loaded = load("mini-bf16.gguf");
    let (prompt, _) = golden(PROMPT);
    let cancel = Cancel::new();
    cancel.stop();
    let got = session(&loaded).reply(&prompt, greedy(5), &cancel, &mut |_| {}).unwrap();
    assert_eq!((got.tokens.len(), got.finish), (0, Finish::Cancelled));
}

#[test]
fn a_saved_session_goes_on_as_if_it_had_never_stopped() {
    let loaded = load("mini-bf16.gguf");
    let (mut prompt, _) = golden("mini-bf16.mid");
    let mut first = session(&loaded);
    prompt.extend(reply(&mut first, &prompt, greedy(5)).tokens);
    let saved = first.save();

    let mut second = session(&loaded);
    second.load(&saved).unwrap();
    assert_eq!(second.tokens(), first.tokens());
    let (want, got) = (reply(&mut first, &prompt, greedy(9)), reply(&mut second, &prompt, greedy(9)));
    assert_eq!((got.tokens, got.stats.prompt.computed), (want.tokens, 1));

    let mut third = session(&loaded);
    third.load(&saved[..saved.len() - 1]).unwrap_err();
    assert!(third.tokens().is_empty());
}

#[test]
fn a_seed_gives_the_same_reply_and_another_seed_another() {
    let loaded = load("mini-bf16.gguf");
    let (prompt, _) = golden(PROMPT);
    let mut session = session(&loaded);
    let mut sampled = |seed| {
        let sampling = Sampling { min_p: 0.0, temperature: 2.0, ..Sampling::default() };
        reply(&mut session, &prompt, Request { sampling, seed, ..greedy(30) }).tokens
    };
    let first = sampled(1);
    assert_eq!(first, sampled(1));
    assert_ne!(first, sampled(2));
}

/// With a presence penalty greater than any difference of logits, no token is said twice.
#[test]
fn penalties_reach_the_reply() {
    let loaded = load("mini-bf16.gguf");
    let (prompt, _) = golden(PROMPT);
    let sampling = Sampling { presence_penalty: 100.0, ..Sampling::greedy() };
    let mut tokens = reply(&mut session(&loaded), &prompt, Request { sampling, ..greedy(60) }).tokens;
    let said = tokens.len();
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), said);
}

/// A stop string may begin and end inside tokens; the text before it is kept, and nothing after it.
#[test]
fn a_stop_string_ends_the_reply() {
    let loaded = load("mini-bf16.gguf");
    let (prompt, _) = golden(PROMPT);
    let mut session = session(&loaded);
    let whole = reply(&mut session, &prompt, greedy(30)).message.content;
    let chars: Vec<char> = whole.chars().collect();
    let readable =
        chars[10..].windows(4).find(|w| !w.contains(&'\u{fffd}')).expect("four readable characters");
    let stop = String::from_iter(readable);

    let mut streamed = String::new();
    let request = Request { form: Form::Plain { stop: vec![stop.clone()] }, ..greedy(30) };
    let mut listen = |event| {
        if let Event::Message(text::Event::Content(text)) = event {
            streamed += &text;
        }
    };
    let got = session.reply(&prompt, request, &Cancel::new(), &mut listen).unwrap();
    let want = whole.split(&stop).next().unwrap();
    assert_eq!((&*got.message.content, got.finish), (want, Finish::Complete));
    assert_eq!(got.message.stop_string, Some(stop));
    assert_eq!(streamed, want);
}

#[test]
fn a_reply_ends_at_its_limit_or_with_the_context() {
    let loaded = load("mini-bf16.gguf");
    let (prompt, want) = golden(PROMPT);
    let mut small = engine::Session::new(loaded.clone(), model::KvFormat::F32, Some(prompt.len() + 3));
    let full = reply(&mut small, &prompt, greedy(10));
    assert_eq!((&full.tokens[..], full.finish), (&want[..3], Finish::ContextFull));
    let limited = reply(&mut small, &prompt, greedy(2));
    assert_eq!((&limited.tokens[..], limited.finish), (&want[..2], Finish::MaxTokens));
    assert_eq!(reply(&mut small, &prompt, greedy(0)).finish, Finish::MaxTokens);

    let long = prompt.repeat(2);
    let error = small.reply(&long, greedy(1), &Cancel::new(), &mut |_| {}).unwrap_err();
    let need = format!("the prompt has {} tokens, but the context ends at {}", long.len(), prompt.len() + 3);
    assert_eq!(error.to_string(), need);
}

#[test]
fn a_request_that_makes_no_sense_is_refused_before_any_work() {
    let loaded = load("mini-bf16.gguf");
    let mut session = session(&loaded);
    let mut refuse = |prompt: &[u32], request, want: &str| {
        let error = session.reply(prompt, request, &Cancel::new(), &mut |_| {}).unwrap_err();
        assert_eq!(error.to_string(), want);
        assert!(session.tokens().is_empty());
    };
    let hot = Sampling { temperature: f32::NAN, ..Sampling::default() };
    refuse(&[0], Request { sampling: hot, ..greedy(1) }, "temperature is NaN, needed 0 or more");
    refuse(&[], greedy(1), "the prompt is empty");
    refuse(&[0, 512], greedy(1), "token 512 is outside the vocabulary of 512");
}

#[test]
fn logprobs_tell_what_else_there_was() {
    let loaded = load("mini-bf16.gguf");
    let (prompt, want) = golden(PROMPT);
    let mut seen = Vec::new();
    let mut listen = |event| {
        if let Event::Token(logprob) = event {
            seen.push(logprob);
        }
    };
    let request = Request { logprobs: Some(3), ..greedy(4) };
    session(&loaded).reply(&prompt, request, &Cancel::new(), &mut listen).unwrap();
    assert_eq!(seen.len(), 4);
    for (logprob, token) in seen.iter().zip(want) {
        assert_eq!((logprob.token, logprob.top[0]), (token, (token, logprob.logprob)));
        assert_eq!(logprob.top.len(), 3);
        assert!(logprob.logprob < 0.0 && logprob.top[1].1 <= logprob.logprob);
    }
}

#[test]
fn what_happens_is_told_in_order() {
    let loaded = load("mini-bf16.gguf");
    let (prompt, _) = golden("mini-bf16.mid");
    let mut prefill = Vec::new();
    let mut listen = |event| {
        if let Event::Prefill { done, total } = event {
            prefill.push((done, total));
        }
    };
    let mut session = session(&loaded).with_chunk(200);
    let got: Result<_, ReplyError> = session.reply(&prompt, greedy(1), &Cancel::new(), &mut listen);
    assert_eq!(got.unwrap().stats.prompt.computed, 420);
    assert_eq!(prefill, [(0, 420), (200, 420), (400, 420), (420, 420)]);
}

/// Whoever waits for a model sees each matrix come.
#[test]
fn loading_can_be_watched() {
    let file =
        std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/mini-bf16.gguf");
    let gguf = gguf::Gguf::open(&file).unwrap();
    let seen = std::cell::RefCell::new(Vec::new());
    let watch = |loading: engine::Loading| seen.borrow_mut().push(loading);
    engine::LoadedModel::load_watched(cpu::Reference, &gguf, None, &watch).unwrap();
    let seen = seen.into_inner();
    assert!(seen.is_sorted_by_key(|loading| loading.part()), "{seen:?}");
    assert!(seen.len() > 20, "{seen:?}");
    let weights = |loading: &&engine::Loading| loading.phase == engine::LoadPhase::Weights;
    let last = seen.iter().rfind(weights).unwrap();
    let matrices = gguf.tensors().filter(|tensor| tensor.dims.len() > 1);
    assert_eq!(last.done, last.total);
    assert!(last.total <= matrices.map(|tensor| tensor.bytes).sum() && last.total > 0);
    assert_eq!(seen.last().map(|loading| loading.phase), Some(engine::LoadPhase::Starting));
}
