//! Timelines behave as their invariants say: on the small model with every kind of layer, to the bit.

mod common;

use common::{Golden, feed};
use cpu::{Cpu, Reference};
use model::snapshot::Head;
use model::tap::{Place, Seen};
use model::{
    Codec, Entry, KvFormat, Model, NoTap, Ops, PAGE, SLACK, SnapshotError, Timeline, Wanted, forward, load,
};
use std::sync::Arc;

/// A backend with the small model on it.
struct Setup<B: Ops> {
    ops: B,
    model: Model<B>,
}

fn setup<B: Ops>(ops: B) -> Setup<B> {
    let model = load(&ops, &Golden::load("mini-mxfp4.mid").gguf()).unwrap();
    Setup { ops, model }
}

fn fast() -> Setup<Cpu> {
    setup(Cpu::new(Some(2)))
}

impl<B: Ops> Setup<B> {
    fn empty(&self) -> Timeline<B> {
        Timeline::new(&self.ops, &self.model.config, KvFormat::F32)
    }

    fn started(&self, tokens: &[u32]) -> Timeline<B> {
        let mut timeline = self.empty();
        feed(&self.model, &self.ops, &mut timeline, tokens, 256);
        timeline
    }

    /// Bits of the logits of some next tokens.
    fn continued(&self, timeline: &mut Timeline<B>, tokens: &[u32], chunk: usize) -> Vec<u32> {
        feed(&self.model, &self.ops, timeline, tokens, chunk).into_iter().map(f32::to_bits).collect()
    }

    fn load(&self, bytes: &[u8]) -> Result<Timeline<B>, SnapshotError> {
        Timeline::from_bytes(&self.ops, &self.model.config, KvFormat::F32, &self.model.fingerprint, bytes)
    }
}

/// A prompt of any length: the golden's tokens over and over, shifted a little each time.
fn prompt(len: usize) -> Vec<u32> {
    let golden = Golden::load("mini-mxfp4.mid").tokens;
    (0..len).map(|i| (golden[i % golden.len()] + (i / golden.len()) as u32) % 512).collect()
}

fn any_chunks_give_the_same_bits<B: Ops>(on: &Setup<B>) {
    let tokens = prompt(PAGE + 150);
    let want = on.continued(&mut on.empty(), &tokens, 256);
    for chunk in [1, 7, 97, 128, 129] {
        assert!(on.continued(&mut on.empty(), &tokens, chunk) == want, "chunks of {chunk}");
    }
}

#[test]
fn any_chunks_give_the_same_bits_on_the_fast_backend() {
    any_chunks_give_the_same_bits(&fast());
}

#[test]
fn any_chunks_give_the_same_bits_on_the_reference() {
    any_chunks_give_the_same_bits(&setup(Reference));
}

/// Pages that a batch finishes on its way are those of shorter batches, ends included; so is what comes after them.
fn a_batch_of_several_pages<B: Ops>(mut on: Setup<B>) {
    on.model.config.context = 4 * PAGE; // this one knows two
    let tokens = prompt(100 + 3 * PAGE + 41);
    let (start, rest) = tokens.split_at(100);
    let want = on.started(&tokens);
    let mut timeline = on.started(start);
    feed(&on.model, &on.ops, &mut timeline, rest, rest.len());
    let fingerprint = &on.model.fingerprint;
    let codec = Codec::new(&on.model.config, KvFormat::F32, on.model.fingerprint);
    assert!(timeline.to_bytes(fingerprint) == want.to_bytes(fingerprint));
    let mut before = codec.root();
    for (index, (page, same)) in timeline.pages().iter().zip(want.pages()).enumerate() {
        let [page, same] = [page, same].map(|page| codec.page_to_bytes(&before, index, page));
        assert!(page == same, "page {index}");
        before = before.child(timeline.pages()[index].tokens());
    }
    assert_eq!((timeline.pages().len(), timeline.cut_back(&on.ops, 2 * PAGE + 7)), (3, 2 * PAGE));
    let [mut all, mut alone] = [timeline, on.started(&tokens[..2 * PAGE])];
    assert!(on.continued(&mut all, &prompt(150), 150) == on.continued(&mut alone, &prompt(150), 150));
}

#[test]
fn a_batch_of_several_pages_on_the_fast_backend() {
    a_batch_of_several_pages(fast());
}

#[test]
fn a_batch_of_several_pages_on_the_reference() {
    a_batch_of_several_pages(setup(Reference));
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let tokens = prompt(300);
    let want = fast().continued(&mut fast().empty(), &tokens, 256);
    for threads in [1, 3, 5] {
        let on = setup(Cpu::new(Some(threads)));
        assert!(on.continued(&mut on.empty(), &tokens, 256) == want, "{threads} threads");
    }
}

fn a_row_does_not_depend_on_its_batch<B: Ops>(on: &Setup<B>) {
    let prompts = [prompt(3), prompt(129), prompt(200)];
    let alone: Vec<_> =
        prompts.iter().map(|tokens| on.continued(&mut on.started(tokens), &[17], 1)).collect();
    let mut timelines: Vec<_> = prompts.iter().map(|tokens| on.started(tokens)).collect();
    let mut batch: Vec<_> = timelines
        .iter_mut()
        .map(|timeline| Entry { timeline, tokens: &[17], wanted: Wanted::Last })
        .collect();
    let output = forward(&on.model, &on.ops, &mut batch, &mut NoTap).unwrap();
    let together: Vec<u32> =
        on.ops.read(&output.logits.unwrap()).unwrap().into_iter().map(f32::to_bits).collect();
    assert_eq!(together, alone.concat());
}

#[test]
fn a_row_does_not_depend_on_its_batch_on_the_fast_backend() {
    a_row_does_not_depend_on_its_batch(&fast());
}

#[test]
fn a_row_does_not_depend_on_its_batch_on_the_reference() {
    a_row_does_not_depend_on_its_batch(&setup(Reference));
}

/// Of the last layer, rows of which nothing is wanted are only cached: nobody else notices.
fn what_is_wanted_changes_no_bits<B: Ops>(on: &Setup<B>) {
    let wishes = [Wanted::Last, Wanted::None, Wanted::All, Wanted::Streams, Wanted::Last];
    let (lengths, next) = ([0, 140, 290, 37, 3], prompt(61));
    let run = |wishes: [Wanted; 5]| {
        let mut timelines = lengths.map(|len| on.started(&prompt(len)));
        let entries = timelines.iter_mut().zip(wishes).enumerate();
        let mut batch: Vec<_> = entries
            .map(|(i, (timeline, wanted))| Entry { timeline, tokens: &next[12 * i..], wanted })
            .collect();
        let output = forward(&on.model, &on.ops, &mut batch, &mut NoTap).unwrap();
        let read = |array: Option<B::Array>| array.map_or(vec![], |array| on.ops.read(&array).unwrap());
        let states = timelines.map(|timeline| timeline.to_bytes(&on.model.fingerprint));
        (read(output.logits), read(output.streams), states)
    };
    let rows_of = |all: &[f32], wishes: [Wanted; 5], counted: &dyn Fn(Wanted, usize) -> usize| {
        let rows: Vec<usize> = (0..5).map(|i| next.len() - 12 * i).collect();
        let width = all.len() / rows.iter().sum::<usize>();
        let (mut at, mut some) = (0, vec![]);
        for (wanted, n) in wishes.into_iter().zip(rows) {
            at += n;
            some.extend_from_slice(&all[(at - counted(wanted, n)) * width..at * width]);
        }
        some
    };
    let (logits, streams, states) = run([Wanted::All; 5]);
    let with_streams = [1, 1000, 20, 0, 12].map(Wanted::LastAndStreams);
    for wishes in [wishes, with_streams, [Wanted::None; 5], [Wanted::Last; 5], [Wanted::Streams; 5]] {
        let (some_logits, some_streams, same_states) = run(wishes);
        let counted = |wanted: Wanted, n, streams| match wanted {
            Wanted::None => 0,
            Wanted::LastAndStreams(rows) if streams => rows.clamp(1, n),
            Wanted::Last | Wanted::LastAndStreams(_) => 1,
            Wanted::All => n,
            Wanted::Streams => n * usize::from(streams),
        };
        let want = rows_of(&logits, wishes, &|wanted, n| counted(wanted, n, false));
        assert!(some_logits == want, "logits of {wishes:?}");
        let want = rows_of(&streams, wishes, &|wanted, n| counted(wanted, n, true));
        assert!(some_streams == want, "streams of {wishes:?}");
        assert!(same_states == states, "timelines after {wishes:?}");
    }
}

#[test]
fn what_is_wanted_changes_no_bits_on_the_fast_backend() {
    what_is_wanted_changes_no_bits(&fast());
}

#[test]
fn what_is_wanted_changes_no_bits_on_the_reference() {
    what_is_wanted_changes_no_bits(&setup(Reference));
}

/// Lengths around everything that can end: windows of 4, 32 and 128 tokens, and a page.
const LENGTHS: [usize; 14] = [1, 3, 4, 5, 31, 32, 33, 127, 128, 129, 300, PAGE - 1, PAGE, PAGE + 1];

#[test]
fn cutting_back_is_never_having_gone_there() {
    let on = fast();
    let next = prompt(9);
    for len in LENGTHS {
        for beyond in [1, 5, SLACK] {
            let mut want = on.started(&prompt(len));
            let mut got = on.started(&prompt(len));
            on.continued(&mut got, &vec![3; beyond], 16);
            assert_eq!(got.cut_back(&on.ops, len), len, "within the slack");
            assert_eq!(got.tokens(), want.tokens());
            assert_eq!(
                on.continued(&mut got, &next, 4),
                on.continued(&mut want, &next, 9),
                "{len} + {beyond}"
            );
        }
    }
}

#[test]
fn cutting_back_further_ends_at_a_page() {
    let on = fast();
    let tokens = prompt(PAGE + 200);
    let mut timeline = on.started(&tokens);
    assert_eq!(timeline.cut_back(&on.ops, PAGE + 100), PAGE);
    let got = on.continued(&mut timeline, &tokens[PAGE..], 64);
    let want = on.continued(&mut on.started(&tokens[..PAGE]), &tokens[PAGE..], 64);
    assert_eq!(got, want);
    assert_eq!(timeline.cut_back(&on.ops, 500), 0);
    assert!(timeline.is_empty());
}

#[test]
fn a_fork_goes_its_own_way() {
    let on = fast();
    let tokens = prompt(PAGE + 3);
    let mut first = on.started(&tokens);
    let mut second = first.fork();
    let want = on.continued(&mut on.started(&tokens), &[5, 6], 2);
    on.continued(&mut first, &[7, 8, 9], 1);
    assert_eq!(on.continued(&mut second, &[5, 6], 1), want);
    let pages = first.pages().to_vec();
    let mut third = Timeline::from_pages(&on.ops, &on.model.config, KvFormat::F32, pages);
    assert_eq!(third.len(), PAGE);
    on.continued(&mut third, &tokens[PAGE..], 2);
    assert_eq!(on.continued(&mut third, &[5, 6], 2), want, "from the shared page");
}

/// What it copied has room for what comes, so that nothing is copied again by its first token.
#[test]
fn a_fork_takes_no_more_memory_for_its_first_token() {
    let on = fast();
    let mut fork = on.started(&prompt(300)).fork();
    let before = fork.tail_memory();
    on.continued(&mut fork, &[5], 1);
    assert!(fork.tail_memory() <= before, "{before} bytes became {}", fork.tail_memory());
}

#[test]
fn a_loaded_timeline_goes_on_as_if_it_had_never_stopped() {
    let on = fast();
    for len in LENGTHS.into_iter().chain([0, PAGE + 130]) {
        let mut want = on.started(&prompt(len));
        let mut got = on.load(&want.to_bytes(&on.model.fingerprint)).unwrap();
        assert_eq!(got.tokens(), want.tokens());
        let back = len.saturating_sub(SLACK);
        assert_eq!(got.cut_back(&on.ops, back), want.cut_back(&on.ops, back), "{len} tokens");
        let next = prompt(9);
        assert_eq!(on.continued(&mut got, &next, 3), on.continued(&mut want, &next, 9), "{len} tokens");
    }
}

/// Pages and a tail that were saved each for itself make the same conversation, also when the pages before the
/// tail have no ends.
#[test]
fn a_conversation_is_put_together_from_its_parts() {
    let on = fast();
    let codec = Codec::new(&on.model.config, KvFormat::F32, on.model.fingerprint);
    let next = prompt(9);
    for len in [5, PAGE, PAGE + 77] {
        let mut want = on.started(&prompt(len));
        let (mut parent, mut pages) = (codec.root(), Vec::new());
        for (index, page) in want.pages().iter().enumerate() {
            let inner = (index + 1) * PAGE < len;
            let bytes = if inner {
                codec.page_to_bytes(&parent, index, &page.without_end())
            } else {
                codec.page_to_bytes(&parent, index, page)
            };
            let (head, page) = codec.page_from_bytes(&on.ops, &bytes).unwrap();
            assert_eq!((head.parent, head.pages, head.has_end), (parent, index, !inner));
            assert_eq!(codec.head_from_bytes(&bytes[..Head::MOST_BYTES]).unwrap(), head);
            assert_eq!(head.bytes, bytes.len() as u64);
            parent = head.key;
            pages.push(Arc::new(page));
        }
        for slack in [0, 5] {
            let bytes = codec.tail_to_bytes(&parent, &want.tail(slack));
            let (head, tail) = codec.tail_from_bytes(&on.ops, &bytes).unwrap();
            assert_eq!((head.slack, head.bytes), (slack, bytes.len() as u64));
            assert_eq!(tail.position(), len);
            let mut got = Timeline::from_tail(pages.clone(), &tail);
            assert_eq!(got.cut_back(&on.ops, len - slack), len - slack);
            on.continued(&mut got, &want.tokens()[len - slack..], 7);
            let want = on.continued(&mut want.fork(), &next, 9);
            assert_eq!(on.continued(&mut got, &next, 4), want, "{len} tokens, slack {slack}");
        }
        let back = want.cut_back(&on.ops, PAGE + 5);
        let mut got = Timeline::from_tail(pages.clone(), &on.started(&prompt(len)).tail(SLACK));
        let back_without_ends = got.cut_back(&on.ops, PAGE + 5);
        assert_eq!(back_without_ends, if len > PAGE { 0 } else { back }, "no end to stop at");
    }
}

#[test]
fn an_unfinished_pass_leaves_no_trace() {
    let on = fast();
    let more = prompt(PAGE + 100);
    let tokens = &more[..400];
    for chunk in [10, 200, more.len()] {
        let mut timeline = on.started(tokens);
        let mut batch = [Entry { timeline: &mut timeline, tokens: &more[..chunk], wanted: Wanted::Last }];
        let mut fail_late = |_: &Cpu, place: Place, _: Seen<'_, Cpu>| {
            assert!(place.layer.is_none_or(|layer| layer + 1 < on.model.config.layers()), "as planned");
        };
        let failing = std::panic::AssertUnwindSafe(|| {
            let _ = forward(&on.model, &on.ops, &mut batch, &mut fail_late);
        });
        std::panic::catch_unwind(failing).expect_err("a panic");
        let left = timeline.undo(&on.ops);
        assert_eq!(left, if chunk > SLACK { 0 } else { 400 });
        let want = on.continued(&mut on.started(tokens), &tokens[..9], 9);
        on.continued(&mut timeline, &tokens[left..], 50);
        assert_eq!(on.continued(&mut timeline, &tokens[..9], 9), want, "{chunk}");
    }
}

#[test]
fn damaged_bytes_are_refused() {
    let on = fast();
    let bytes = on.started(&prompt(PAGE + 40)).to_bytes(&on.model.fingerprint);
    for cut in (0..bytes.len()).step_by(bytes.len() / 300).chain([bytes.len() - 1]) {
        assert!(on.load(&bytes[..cut]).is_err(), "cut to {cut}");
    }
    for at in (0..200).chain((200..bytes.len()).step_by(bytes.len() / 300)) {
        let mut bad = bytes.clone();
        bad[at] ^= 0x41;
        assert!(on.load(&bad).is_err(), "byte {at} changed");
    }
    let load = |format, fingerprint| {
        Timeline::from_bytes(&on.ops, &on.model.config, format, fingerprint, &bytes).map(|_| ()).unwrap_err()
    };
    let other_format = load(KvFormat::F16, &on.model.fingerprint);
    assert_eq!(other_format, SnapshotError::Format { found: "f32", need: "f16" });
    assert_eq!(load(KvFormat::F32, &[0; 32]), SnapshotError::Model);
}
