//! Timelines behave as their invariants say: on the small model with every kind of layer, to the bit.

mod common;

use common::{Golden, feed};
use cpu::Reference;
use model::{Entry, KvFormat, Model, NoTap, PAGE, SLACK, SnapshotError, Timeline, Wanted, forward, load};

fn model() -> Model<Reference> {
    load(&Reference, &Golden::load("mini-mxfp4.mid").gguf()).unwrap()
}

/// A prompt of any length: the golden's tokens over and over, shifted a little each time.
fn prompt(len: usize) -> Vec<u32> {
    let golden = Golden::load("mini-mxfp4.mid").tokens;
    (0..len).map(|i| (golden[i % golden.len()] + (i / golden.len()) as u32) % 512).collect()
}

fn started(model: &Model<Reference>, tokens: &[u32]) -> Timeline<Reference> {
    let mut timeline = Timeline::new(&Reference, &model.config, KvFormat::F32);
    feed(model, &Reference, &mut timeline, tokens, 256);
    timeline
}

/// Bits of the logits of some next tokens.
fn continued(model: &Model<Reference>, timeline: &mut Timeline<Reference>, tokens: &[u32]) -> Vec<u32> {
    feed(model, &Reference, timeline, tokens, 256).into_iter().map(f32::to_bits).collect()
}

#[test]
fn any_chunks_give_the_same_bits() {
    let model = model();
    let tokens = prompt(PAGE + 150);
    let want = continued(&model, &mut started(&model, &[]), &tokens);
    for chunk in [1, 7, 97, 128, 129] {
        let mut timeline = Timeline::new(&Reference, &model.config, KvFormat::F32);
        let got = feed(&model, &Reference, &mut timeline, &tokens, chunk);
        assert!(got.iter().map(|x| x.to_bits()).eq(want.iter().copied()), "chunks of {chunk}");
    }
}

#[test]
fn a_row_does_not_depend_on_its_batch() {
    let model = model();
    let prompts = [prompt(3), prompt(129), prompt(200)];
    let alone: Vec<_> =
        prompts.iter().map(|tokens| continued(&model, &mut started(&model, tokens), &[17])).collect();
    let mut timelines: Vec<_> = prompts.iter().map(|tokens| started(&model, tokens)).collect();
    let mut batch: Vec<_> = timelines
        .iter_mut()
        .map(|timeline| Entry { timeline, tokens: &[17], wanted: Wanted::Last })
        .collect();
    let output = forward(&model, &Reference, &mut batch, &mut NoTap).unwrap();
    let together = output.logits.unwrap();
    for (i, want) in alone.iter().enumerate() {
        assert!(together.row(i).iter().map(|x| x.to_bits()).eq(want.iter().copied()), "timeline {i}");
    }
}

/// Lengths around everything that can end: windows of 4, 32 and 128 tokens, and a page.
const LENGTHS: [usize; 14] = [1, 3, 4, 5, 31, 32, 33, 127, 128, 129, 300, PAGE - 1, PAGE, PAGE + 1];

#[test]
fn cutting_back_is_never_having_gone_there() {
    let model = model();
    let next = prompt(9);
    for len in LENGTHS {
        for beyond in [1, 5, SLACK] {
            let mut want = started(&model, &prompt(len));
            let mut got = started(&model, &prompt(len));
            continued(&model, &mut got, &vec![3; beyond]);
            assert_eq!(got.cut_back(&Reference, len), len, "within the slack");
            assert_eq!(got.tokens(), want.tokens());
            assert_eq!(
                continued(&model, &mut got, &next),
                continued(&model, &mut want, &next),
                "{len} + {beyond}"
            );
        }
    }
}

#[test]
fn cutting_back_further_ends_at_a_page() {
    let model = model();
    let tokens = prompt(PAGE + 200);
    let mut timeline = started(&model, &tokens);
    assert_eq!(timeline.cut_back(&Reference, PAGE + 100), PAGE);
    let got = continued(&model, &mut timeline, &tokens[PAGE..]);
    let want = continued(&model, &mut started(&model, &tokens[..PAGE]), &tokens[PAGE..]);
    assert_eq!(got, want);
    assert_eq!(timeline.cut_back(&Reference, 500), 0);
    assert!(timeline.is_empty());
}

#[test]
fn a_fork_goes_its_own_way() {
    let model = model();
    let mut first = started(&model, &prompt(PAGE + 3));
    let mut second = first.fork();
    let want = continued(&model, &mut started(&model, &prompt(PAGE + 3)), &[5, 6]);
    assert_eq!(continued(&model, &mut first, &[7, 8, 9]).len(), 3 * 512);
    assert_eq!(continued(&model, &mut second, &[5, 6]), want);
    let pages = first.pages().to_vec();
    let mut third = Timeline::from_pages(&Reference, &model.config, KvFormat::F32, pages);
    assert_eq!(third.len(), PAGE);
    let rest = &prompt(PAGE + 3)[PAGE..];
    continued(&model, &mut third, rest);
    assert_eq!(continued(&model, &mut third, &[5, 6]), want, "from the shared page");
}

#[test]
fn a_loaded_timeline_goes_on_as_if_it_had_never_stopped() {
    let model = model();
    for len in LENGTHS.into_iter().chain([0, PAGE + 130]) {
        let mut want = started(&model, &prompt(len));
        let bytes = want.to_bytes(&model.fingerprint);
        let load = |bytes: &[u8]| {
            Timeline::from_bytes(&Reference, &model.config, KvFormat::F32, &model.fingerprint, bytes)
        };
        let mut got = load(&bytes).unwrap();
        assert_eq!(got.tokens(), want.tokens());
        let back = len.saturating_sub(SLACK);
        assert_eq!(got.cut_back(&Reference, back), want.cut_back(&Reference, back), "{len} tokens");
        let next = prompt(9);
        assert_eq!(continued(&model, &mut got, &next), continued(&model, &mut want, &next), "{len} tokens");
    }
}

#[test]
fn damaged_bytes_are_refused() {
    let model = model();
    let bytes = started(&model, &prompt(PAGE + 40)).to_bytes(&model.fingerprint);
    let load = |bytes: &[u8]| {
        Timeline::from_bytes(&Reference, &model.config, KvFormat::F32, &model.fingerprint, bytes)
            .map(|_| ())
            .unwrap_err()
    };
    for cut in (0..bytes.len()).step_by(bytes.len() / 300).chain([bytes.len() - 1]) {
        load(&bytes[..cut]);
    }
    for at in (0..200).chain((200..bytes.len()).step_by(bytes.len() / 300)) {
        let mut bad = bytes.clone();
        bad[at] ^= 0x41;
        load(&bad);
    }
    let other = Timeline::from_bytes(&Reference, &model.config, KvFormat::F16, &model.fingerprint, &bytes);
    assert_eq!(other.err(), Some(SnapshotError::Format { found: "f32", need: "f16" }));
    let other = Timeline::from_bytes(&Reference, &model.config, KvFormat::F32, &[0; 32], &bytes);
    assert_eq!(other.err(), Some(SnapshotError::Model));
}
