//! Responses that are being written, by their ids: they can be looked at and taken back.

use crate::App;
use crate::guard::Client;
use serde_json::Value;
use std::collections::HashMap;
use tokio::sync::oneshot;

/// Responses that are being written.
#[derive(Default)]
pub struct Flights(HashMap<String, Aloft>);

struct Aloft {
    client: Client,
    /// The response, without its reply.
    response: Value,
    /// Ends it; taken when that was done.
    stop: Option<oneshot::Sender<()>>,
}

impl Flights {
    /// A response of this client.
    pub fn get(&self, id: &str, client: &Client) -> Option<&Value> {
        self.0.get(id).filter(|aloft| aloft.client == *client).map(|aloft| &aloft.response)
    }

    /// Takes a response of this client back, and gives what it is called.
    pub fn stop(&mut self, id: &str, client: &Client) -> Option<Value> {
        let aloft = self.0.get_mut(id).filter(|aloft| aloft.client == *client)?;
        if let Some(stop) = aloft.stop.take() {
            let _ = stop.send(()); // nobody hears it if the response is complete just now
        }
        Some(aloft.response.clone())
    }
}

/// A response that is being written. It is in the list until this is dropped.
pub(super) struct Flight {
    app: App,
    id: String,
}

impl Flight {
    /// Puts a response on the list; what is given back hears when it is taken back.
    pub fn begin(app: &App, client: &Client, id: &str, response: Value) -> (Flight, oneshot::Receiver<()>) {
        let (stop, stopped) = oneshot::channel();
        let aloft = Aloft { client: client.clone(), response, stop: Some(stop) };
        app.flights().0.insert(id.to_owned(), aloft);
        (Flight { app: app.clone(), id: id.to_owned() }, stopped)
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.app.flights().0.remove(&self.id);
    }
}
