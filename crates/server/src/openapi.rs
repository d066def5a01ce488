//! `GET /openapi.json`, and the shapes it describes.
//!
//! These types are the document and nothing else: requests are read field by field ([`crate::fields`]), for
//! clients write them in more ways than a type can say. Every object may have further members.

use crate::App;
use axum::Json;
use axum::extract::State;
use serde_json::Value;
use utoipa::{OpenApi, ToSchema};

/// `GET /openapi.json`
pub async fn document(State(app): State<App>) -> Json<Value> {
    let mut document = serde_json::to_value(Document::openapi()).expect("the document is JSON");
    // The one limit that depends on the model.
    let tokens = document.pointer_mut("/components/schemas/DetokenizeBody/properties/tokens/items");
    if let (Some(tokens), Ok(speaker)) = (tokens, app.loaded()) {
        tokens["maximum"] = (speaker.info().vocab - 1).into();
    }
    Json(document)
}

#[derive(OpenApi)]
#[openapi(
    info(title = "ds4", description = "OpenAI's and Anthropic's APIs on a model of your own."),
    paths(
        crate::chat::completions,
        crate::completions::completions,
        crate::responses::create,
        crate::responses::input_tokens,
        crate::responses::retrieve,
        crate::responses::delete,
        crate::responses::cancel,
        crate::responses::input_items,
        crate::messages::create,
        crate::messages::count_tokens,
        crate::models::list,
        crate::models::one,
        crate::tokens::tokenize,
        crate::tokens::detokenize,
        crate::tokens::apply_template,
        crate::health::live,
        crate::health::ready,
        crate::props::props,
        crate::slots::list,
        crate::slots::act,
        crate::props::version,
    ),
    // What only a parameter refers to is not found by itself.
    components(schemas(SlotActionName))
)]
struct Document;

/// A chat.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct ChatBody {
    /// The model's name; any is accepted, some ask for thinking (`…-think`, `…-nothink`, `…-max`).
    model: Option<String>,
    /// The conversation.
    #[schema(min_items = 1)]
    messages: Vec<ChatMessage>,
    /// What the model may call.
    tools: Option<Vec<ChatTool>>,
    /// Whether the reply is sent as it is written.
    stream: Option<bool>,
    /// Divides logits; 0 always takes the most probable token.
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f64>,
    /// Share of probability that stays.
    #[schema(exclusive_minimum = 0, maximum = 1)]
    top_p: Option<f64>,
    /// How many of the most probable tokens stay; 0 and -1 keep all.
    #[schema(minimum = -1)]
    top_k: Option<i64>,
    /// Least probability relative to the most probable token.
    #[schema(minimum = 0, maximum = 1)]
    min_p: Option<f64>,
    /// Most tokens to write, reasoning included.
    #[schema(minimum = 1)]
    max_completion_tokens: Option<i64>,
    /// The older name of the same.
    #[schema(minimum = 1)]
    max_tokens: Option<i64>,
    /// How many replies.
    #[schema(minimum = 1, maximum = 8)]
    n: Option<i64>,
    /// The same seed gives the same reply.
    seed: Option<i64>,
    /// Whether to report probabilities of tokens.
    logprobs: Option<bool>,
    /// How hard to think: a number from 1 to 100, or `none`, `minimal`, `low`, `medium`, `high`, `xhigh`, `max`.
    reasoning_effort: Option<String>,
    /// Whether several calls at once are allowed.
    parallel_tool_calls: Option<bool>,
}

/// A function that the model may call.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct ChatTool {
    #[schema(rename = "type", pattern = "^function$")]
    kind: Option<String>,
    function: Function,
}

/// What a function is called, and what it takes.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct Function {
    #[schema(min_length = 1, max_length = 64)]
    name: String,
    parameters: Option<AnyObject>,
}

/// A message of a chat.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct ChatMessage {
    role: Role,
    /// The text.
    content: Option<String>,
}

/// Who speaks.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code, missing_docs)]
pub enum Role {
    System,
    Developer,
    User,
    Assistant,
    Tool,
}

/// A chat completion.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct ChatCompletion {
    id: String,
    #[schema(pattern = "^chat\\.completion$")]
    object: String,
    created: u64,
    model: String,
    system_fingerprint: String,
    #[schema(min_items = 1)]
    choices: Vec<ChatChoice>,
    usage: ChatUsage,
    timings: crate::usage::Timings,
}

/// One reply.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct ChatChoice {
    index: u64,
    message: ReplyMessage,
    #[schema(pattern = "^(stop|length|tool_calls)$")]
    finish_reason: String,
    logprobs: Option<AnyObject>,
}

/// What the model says.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct ReplyMessage {
    #[schema(pattern = "^assistant$")]
    role: String,
    #[schema(required)]
    content: Option<String>,
    #[schema(nullable = false)]
    reasoning_content: Option<String>,
    #[schema(nullable = false)]
    tool_calls: Option<Vec<AnyObject>>,
}

/// What it cost.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct ChatUsage {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    prompt_tokens_details: AnyObject,
    completion_tokens_details: AnyObject,
    prompt_cache_hit_tokens: u64,
    prompt_cache_miss_tokens: u64,
}

/// A text to continue.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct CompletionBody {
    model: Option<String>,
    /// The text; or a list of texts, of token ids, or of lists of token ids.
    prompt: String,
    #[schema(minimum = 0)]
    max_tokens: Option<i64>,
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f64>,
    #[schema(exclusive_minimum = 0, maximum = 1)]
    top_p: Option<f64>,
    #[schema(minimum = 1, maximum = 8)]
    n: Option<i64>,
    seed: Option<i64>,
    stream: Option<bool>,
    /// Whether the prompt is repeated before the reply.
    echo: Option<bool>,
}

/// A completion.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct Completion {
    id: String,
    #[schema(pattern = "^text_completion$")]
    object: String,
    created: u64,
    model: String,
    #[schema(min_items = 1)]
    choices: Vec<CompletionChoice>,
    usage: ChatUsage,
}

/// One continuation.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct CompletionChoice {
    index: u64,
    text: String,
    #[schema(pattern = "^(stop|length)$")]
    finish_reason: String,
    logprobs: Option<AnyObject>,
}

/// A request of the Responses API.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct ResponsesBody {
    model: Option<String>,
    /// The conversation: a text, or items.
    input: String,
    instructions: Option<String>,
    #[schema(minimum = 1)]
    max_output_tokens: Option<i64>,
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f64>,
    #[schema(exclusive_minimum = 0, maximum = 1)]
    top_p: Option<f64>,
    stream: Option<bool>,
    /// Whether the response is kept for `previous_response_id`; it is, unless this is false.
    store: Option<bool>,
    parallel_tool_calls: Option<bool>,
}

/// A response.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct ResponseObject {
    id: String,
    #[schema(pattern = "^response$")]
    object: String,
    created_at: u64,
    #[schema(pattern = "^(completed|incomplete|failed|in_progress)$")]
    status: String,
    model: String,
    output: Vec<AnyObject>,
    parallel_tool_calls: bool,
    tools: Vec<AnyObject>,
    usage: ResponseUsage,
}

/// A response that was taken back, or was complete before.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct CancelledResponse {
    id: String,
    #[schema(pattern = "^(cancelled|completed|incomplete|failed)$")]
    status: String,
}

/// A list of items.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct ItemList {
    #[schema(pattern = "^list$")]
    object: String,
    data: Vec<AnyObject>,
    first_id: Option<String>,
    last_id: Option<String>,
    has_more: bool,
}

/// What a response cost.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct ResponseUsage {
    input_tokens: u64,
    input_tokens_details: AnyObject,
    output_tokens: u64,
    output_tokens_details: AnyObject,
    total_tokens: u64,
}

/// A request of the Messages API.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct MessagesBody {
    model: Option<String>,
    #[schema(min_items = 1)]
    messages: Vec<InMessage>,
    /// Most tokens to write; absent means as many as fit, 0 only reads the prompt.
    #[schema(minimum = 0)]
    max_tokens: Option<i64>,
    system: Option<String>,
    #[schema(max_items = 16)]
    stop_sequences: Option<Vec<String>>,
    stream: Option<bool>,
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f64>,
    #[schema(exclusive_minimum = 0, maximum = 1)]
    top_p: Option<f64>,
    #[schema(minimum = -1)]
    top_k: Option<i64>,
}

/// A message to the model.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct InMessage {
    role: MessageRole,
    content: String,
}

/// Who speaks.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code, missing_docs)]
pub enum MessageRole {
    User,
    Assistant,
    System,
}

/// A message of the model.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct Message {
    id: String,
    #[schema(rename = "type", pattern = "^message$")]
    kind: String,
    #[schema(pattern = "^assistant$")]
    role: String,
    model: String,
    content: Vec<AnyObject>,
    stop_reason: String,
    #[schema(required)]
    stop_sequence: Option<String>,
    usage: AnyObject,
}

/// Tokens of a prompt.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct InputTokens {
    input_tokens: u64,
}

/// A text to turn into tokens.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct TokenizeBody {
    /// The text.
    content: String,
    /// Whether to put the token that begins a text before it.
    add_special: Option<bool>,
    /// Whether control tokens that the text spells are meant.
    parse_special: Option<bool>,
    /// Whether to say what each token says.
    with_pieces: Option<bool>,
}

/// Tokens to turn into text.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct DetokenizeBody {
    /// Token ids.
    tokens: Vec<u32>,
    /// Whether to give the bytes, too, in base64.
    raw: Option<bool>,
}

/// The models.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct ModelList {
    #[schema(pattern = "^list$")]
    object: String,
    data: Vec<ModelObject>,
    has_more: bool,
    first_id: String,
    last_id: String,
}

/// A model.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct ModelObject {
    id: String,
    #[schema(pattern = "^model$")]
    object: String,
    created: u64,
    owned_by: String,
    display_name: String,
    context_length: u64,
    max_model_len: u64,
    capabilities: AnyObject,
}

/// Whether all is well.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct Health {
    /// `ok`, `loading`, `unavailable`, `unhealthy` or `draining`.
    status: String,
    /// How much of the model is loaded, 0 to 1.
    progress: Option<f32>,
    /// What is done for that: `checking`, `tokenizer`, `weights` or `starting`.
    phase: Option<String>,
    /// Bytes of weights that are in their place, while they are brought there.
    weights: Option<LoadedBytes>,
    /// What is wrong.
    reason: Option<String>,
}

/// Bytes of a part of the work.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct LoadedBytes {
    /// So many are done.
    done: u64,
    /// Of so many.
    total: u64,
}

/// What to do with the last conversation of a slot.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[allow(dead_code)]
pub enum SlotActionName {
    /// Write it to the page store.
    Save,
    /// Bring one back from there.
    Restore,
    /// Forget it.
    Erase,
}

/// What a saved conversation is called.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct SlotBody {
    /// A name, or for `restore` also the key that `save` answered. It names no file.
    #[schema(min_length = 1, max_length = 128)]
    filename: Option<String>,
}

/// The program's version.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct Version {
    version: String,
    /// The source that the program was built from, or `unknown`.
    commit: String,
    /// On what the model is computed, or `unknown` as long as it is loading.
    backend: String,
}

/// That something is gone.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct Deleted {
    id: String,
    deleted: bool,
}

/// A refusal, in OpenAI's words.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct ErrorBody {
    error: ErrorObject,
}

/// What is wrong.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct ErrorObject {
    message: String,
    #[schema(rename = "type")]
    kind: String,
    #[schema(required)]
    param: Option<String>,
    code: String,
}

/// A refusal, in Anthropic's words.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct AnthropicErrorBody {
    #[schema(rename = "type", pattern = "^error$")]
    kind: String,
    error: AnthropicError,
    request_id: String,
}

/// What is wrong.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct AnthropicError {
    #[schema(rename = "type")]
    kind: String,
    message: String,
}

/// Any object.
#[derive(ToSchema)]
#[schema(value_type = Object)]
pub struct AnyObject(#[allow(dead_code)] Value);

/// Any list.
#[derive(ToSchema)]
#[schema(value_type = Vec<Object>)]
pub struct AnyArray(#[allow(dead_code)] Value);
