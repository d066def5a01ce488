//! Tools that Anthropic's API knows by their type: the client carries them out and sends no schema, since the provider's
//! models were trained on them. Ours was not, so it is told what they take.
//!
//! Source: "Bash tool", "Text editor tool" and "Memory tool" of Anthropic's documentation.

use serde_json::{Value, json};

/// What a tool of this type (`bash_20250124`) does, and the schema of what it takes; `None` if we do not know it.
pub(super) fn known(kind: &str) -> Option<(&'static str, Value)> {
    let (family, version) = kind.rsplit_once('_')?;
    if !version.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(match family {
        "bash" => {
            ("Runs a command in a bash shell that stays open between calls, and returns its output.", bash())
        }
        "text_editor" => {
            // The first versions could take a change back, and had one name for all new text.
            let schema = match version {
                "20241022" | "20250124" => {
                    let mut schema = files(&["view", "create", "str_replace", "insert", "undo_edit"]);
                    let properties = schema["properties"].as_object_mut().expect("written as an object");
                    properties.shift_remove("insert_text");
                    properties["new_str"]["description"] =
                        json!("For `str_replace` and `insert`: the new text");
                    schema
                }
                _ => files(&["view", "create", "str_replace", "insert"]),
            };
            ("Views, creates and edits text files.", schema)
        }
        "memory" => (
            "Keeps notes for later conversations as files under /memories. Look at what is there before you begin.",
            files(&["view", "create", "str_replace", "insert", "delete", "rename"]),
        ),
        _ => return None,
    })
}

fn bash() -> Value {
    json!({
        "type": "object",
        "properties": {
            "command": { "type": "string", "description": "The command. Required, unless `restart` is true" },
            "restart": { "type": "boolean", "description": "Whether to begin with a new shell instead" },
        },
    })
}

fn files(commands: &[&str]) -> Value {
    let mut properties = json!({
        "command": { "type": "string", "enum": commands },
        "path": { "type": "string", "description": "The absolute path of a file, or for `view` also of a folder" },
        "view_range": {
            "type": "array", "items": { "type": "integer" },
            "description": "For `view`: the first and the last line to show, counted from 1; -1 is the end of the file",
        },
        "file_text": { "type": "string", "description": "For `create`: the whole text" },
        "old_str": { "type": "string", "description": "For `str_replace`: the text to replace; it must be there once" },
        "new_str": { "type": "string", "description": "For `str_replace`: the text to put in its place" },
        "insert_line": { "type": "integer", "description": "For `insert`: the line after which to insert; 0 is the beginning" },
        "insert_text": { "type": "string", "description": "For `insert`: the text to insert" },
    });
    if commands.contains(&"rename") {
        properties["old_path"] =
            json!({ "type": "string", "description": "For `rename`: the path until now" });
        properties["new_path"] =
            json!({ "type": "string", "description": "For `rename`: the path from now on" });
    }
    json!({ "type": "object", "properties": properties, "required": ["command"] })
}
