//! What agents send: requests as coding agents make them, whose prompts repeat most of what was sent before.

/// Requests in order.
pub struct Trace {
    pub name: &'static str,
    pub requests: Vec<Request>,
}

/// One request.
pub struct Request {
    pub prompt: Vec<Piece>,
    /// Tokens of its reply.
    pub reply: usize,
    /// Requests of one moment, neighbours in the trace, are sent at once.
    pub moment: usize,
}

/// A part of a prompt.
#[derive(Clone, Copy)]
pub enum Piece {
    /// Text; the same seed is the same text.
    Text { seed: u64, len: usize },
    /// The marker that begins a message of the user, or the result of a tool.
    User,
    /// What the request of this number was replied.
    Reply(usize),
}

/// Tokens of a reply: a short remark and a call.
const REPLY: usize = 24;

/// All traces.
pub fn all() -> [Trace; 3] {
    [shared_instructions(), edits(), sub_agents()]
}

/// Somebody writes a trace down.
#[derive(Default)]
struct Recorder {
    requests: Vec<Request>,
    moment: usize,
    seed: u64,
}

impl Recorder {
    /// Some text that was not there before.
    fn text(&mut self, len: usize) -> Piece {
        self.seed += 1;
        Piece::Text { seed: 1000 + self.seed, len }
    }

    /// Adds a message to a conversation and sends it; the reply belongs to the conversation then.
    fn say(&mut self, conversation: &mut Vec<Piece>, len: usize) {
        conversation.push(Piece::User);
        conversation.push(self.text(len));
        self.send(conversation);
    }

    fn send(&mut self, conversation: &mut Vec<Piece>) {
        let (prompt, moment) = (conversation.clone(), self.moment);
        conversation.push(Piece::Reply(self.requests.len()));
        self.requests.push(Request { prompt, reply: REPLY, moment });
    }

    /// What comes next is sent when everything before is answered.
    fn wait(&mut self) {
        self.moment += 1;
    }

    fn trace(self, name: &'static str) -> Trace {
        Trace { name, requests: self.requests }
    }
}

/// Four agents with the same long instructions, by turns.
fn shared_instructions() -> Trace {
    let mut recorder = Recorder::default();
    let instructions = recorder.text(1500);
    let mut agents = vec![vec![instructions]; 4];
    for turn in 0..6 {
        for (nth, agent) in agents.iter_mut().enumerate() {
            recorder.say(agent, 60 + 35 * ((turn + nth) % 5));
            recorder.wait();
        }
    }
    recorder.trace("shared instructions")
}

/// One conversation, of which an earlier message is edited now and then, a reply written once more, or everything
/// but the instructions and the last messages is dropped.
fn edits() -> Trace {
    let mut recorder = Recorder::default();
    let mut conversation = vec![recorder.text(900)];
    for turn in 1..=15 {
        recorder.say(&mut conversation, 100 + 40 * (turn % 4));
        recorder.wait();
        if turn % 3 == 0 {
            // The message before the last three replies is edited, and what followed it is gone.
            conversation.truncate(conversation.len() - 3 * 3 + 1);
            let edited = recorder.text(150);
            *conversation.last_mut().expect("a conversation") = Piece::User;
            conversation.push(edited);
            recorder.send(&mut conversation);
            recorder.wait();
        }
        if turn % 5 == 0 {
            // Once more, please.
            conversation.pop();
            recorder.send(&mut conversation);
            recorder.wait();
        }
        if turn == 10 {
            // Compacted: a summary instead of what was said.
            let last = conversation.split_off(conversation.len() - 3);
            conversation.truncate(1);
            conversation.extend([Piece::User, recorder.text(200)]);
            conversation.extend(last);
        }
    }
    recorder.trace("edits")
}

/// An agent that sends out three others with instructions of their own at once, now and then, and goes on with what
/// they found.
fn sub_agents() -> Trace {
    let mut recorder = Recorder::default();
    let mut main = vec![recorder.text(1200)];
    let instructions = recorder.text(1000);
    for _ in 0..4 {
        for _ in 0..2 {
            recorder.say(&mut main, 120);
            recorder.wait();
        }
        let mut others = vec![vec![instructions]; 3];
        for turn in 0..3 {
            others.iter_mut().for_each(|other| recorder.say(other, 80 + 50 * turn));
            recorder.wait();
        }
    }
    recorder.trace("sub-agents")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_are_complete() {
        for trace in all() {
            for (nth, request) in trace.requests.iter().enumerate() {
                let earlier = |&piece: &Piece| match piece {
                    Piece::Reply(reply) => trace.requests[reply].moment < request.moment && reply < nth,
                    _ => true,
                };
                assert!(request.prompt.iter().all(earlier), "{}: request {nth}", trace.name);
                assert!(
                    matches!(request.prompt[0], Piece::Text { .. }),
                    "{}: instructions first",
                    trace.name
                );
            }
        }
    }
}
