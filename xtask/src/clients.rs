//! `cargo xtask clients`: the server and the clients that people really use.
//!
//! `ds4 serve` runs the pocket model; official libraries, agents, a browser, a fuzzer for the OpenAPI document and a
//! load test talk to it. Versions are pinned in `tests/clients`. Libraries go into the Python environment and a folder of
//! npm under `target/`.

use crate::setup::{Setup, python};
use crate::shell::{command, exists, root, run, target};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Run real clients against the server: SDKs, agents, a fuzzer, load.
#[derive(clap::Args)]
pub struct Clients {
    /// Only what has this in its name: goldens, python, javascript, page, agents, openapi, load, overhead, bucket
    #[arg(long, default_value = "")]
    only: String,
}

impl Clients {
    /// Everything.
    pub fn all() -> Clients {
        Clients { only: String::new() }
    }

    /// Fetches what is missing and runs it.
    pub fn run(&self) -> Result<()> {
        install()?;
        run(&mut command("cargo build --quiet -p cli --bin ds4"))?;
        let tests = root().join("tests/clients");
        if self.wants("goldens") {
            let goldens = root().join("crates/server/tests/snapshots");
            let mut pytest = program(&python());
            pytest.args(["-m", "pytest", "-q", "-p", "no:cacheprovider", "test_goldens.py"]);
            run(pytest.current_dir(&tests).env("DS4_GOLDENS", &goldens))?;
            node(&["goldens.test.mjs"], "DS4_GOLDENS", &goldens.to_string_lossy())?;
        }
        let server = Server::start(&pocket("models/pocket.gguf", None)?)?;
        let pytest = |files: &[&str], server: &Server| {
            let mut pytest = program(&python());
            pytest.args(["-m", "pytest", "-q", "-p", "no:cacheprovider"]).args(files).current_dir(&tests);
            pytest.env("DS4_PROGRAM", server_program()).env("DS4_POCKET", root().join("models/pocket.gguf"));
            run(pytest.env("DS4_URL", &server.url).env("DS4_CLIENTS", folder()))
        };
        if self.wants("python") {
            pytest(&["test_openai.py", "test_anthropic.py", "test_others.py", "test_end.py"], &server)?;
        }
        if self.wants("javascript") {
            node(&["sdk.test.mjs", "ai.test.mjs"], "DS4_URL", &server.url)?;
        }
        if self.wants("page") {
            pytest(&["test_page.py"], &server)?;
        }
        if self.wants("openapi") {
            let mut fuzzer = program(&python().with_file_name("schemathesis"));
            fuzzer.arg("run").arg(format!("{}/openapi.json", server.url));
            // Requests are read with more liberty than the document grants, on purpose: that what it forbids is
            // refused is not asked for. What it allows must be accepted, and answers must be what it says.
            fuzzer.args(["--max-examples", "10", "--seed", "1", "--request-timeout", "300"]);
            run(fuzzer.args(["--exclude-checks", "negative_data_rejection"]).current_dir(target()))?;
        }
        if self.wants("load") {
            let mut load = program(&python());
            run(load.arg(tests.join("load.py")).arg(&server.url).arg(server.process.id().to_string()))?;
        }
        if self.wants("overhead") {
            run(program(&python()).arg(tests.join("overhead.py")).arg(&server.url))?;
        }
        drop(server);
        if self.wants("agents") {
            let server = Server::start(&pocket("models/pocket.gguf", Some(65_536))?)?;
            pytest(&["test_agents.py"], &server)?;
        }
        if self.wants("bucket") {
            // The program as it is for buckets, which costs some dependencies, is not the one that is built usually.
            run(&mut command("cargo build --quiet -p cli --bin ds4 --features s3"))?;
            let mut pytest = program(&python());
            pytest
                .args(["-m", "pytest", "-q", "-p", "no:cacheprovider", "test_bucket.py"])
                .current_dir(&tests);
            run(pytest.env("DS4_PROGRAM", server_program()))?;
        }
        Ok(())
    }

    fn wants(&self, name: &str) -> bool {
        name.contains(&self.only)
    }
}

/// `ds4`, as it was built for these tests.
fn server_program() -> PathBuf {
    target().join("debug/ds4")
}

fn program(path: &Path) -> Command {
    command(path.to_str().expect("a UTF-8 path"))
}

/// Runs tests in JavaScript, beside their libraries: that is where node looks for them.
fn node(files: &[&str], name: &str, value: &str) -> Result<()> {
    for file in files {
        fs::copy(root().join("tests/clients").join(file), folder().join(file))?;
    }
    run(command("node --test").args(files).current_dir(folder()).env(name, value))
}

/// Where npm keeps the clients.
fn folder() -> PathBuf {
    target().join("clients")
}

fn install() -> Result<()> {
    Setup {}.run()?;
    if !exists("npm --version") {
        run(&mut command("apt-get update"))?;
        run(&mut command("apt-get install -y --no-install-recommends nodejs npm"))?;
    }
    if !exists("chromium --version") {
        run(&mut command("apt-get update"))?;
        run(&mut command("apt-get install -y --no-install-recommends chromium"))?;
    }
    let tests = root().join("tests/clients");
    for (list, done) in [("requirements.txt", "python"), ("package.json", "npm")] {
        let wanted = fs::read_to_string(tests.join(list))?;
        let stamp = folder().join(format!("{done}.installed"));
        if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
            continue;
        }
        fs::create_dir_all(folder())?;
        if done == "python" {
            run(program(&python()).args(["-m", "pip", "install", "--quiet", "-r"]).arg(tests.join(list)))?;
        } else {
            fs::copy(tests.join(list), folder().join(list))?;
            run(command("npm install --no-audit --no-fund --loglevel=error").current_dir(folder()))?;
        }
        fs::write(stamp, wanted)?;
    }
    Ok(())
}

/// The pocket model, with another length of context if wanted: agents begin with prompts longer than its own.
fn pocket(file: &str, context: Option<u32>) -> Result<PathBuf> {
    let file = root().join(file);
    let Some(context) = context else { return Ok(file) };
    let mut bytes = fs::read(&file)?;
    let key = b"deepseek4.context_length";
    let at =
        bytes.windows(key.len()).position(|window| window == key).context("the model names its context")?;
    let value = at + key.len();
    ensure!(bytes[value..value + 4] == [4, 0, 0, 0], "the context is a number of 32 bits");
    bytes[value + 4..value + 8].copy_from_slice(&context.to_le_bytes());
    let wide = folder().join("pocket-wide.gguf");
    fs::write(&wide, bytes)?;
    Ok(wide)
}

/// A server at work; it ends with this.
struct Server {
    process: Child,
    url: String,
}

impl Server {
    fn start(model: &Path) -> Result<Server> {
        let mut serve = program(&server_program());
        // Agents choose no temperature; without one the small model says the same each time.
        serve
            .args(["serve", "--port", "0", "--temp", "0", "-m"])
            .arg(model)
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        serve.env_remove("DS4_API_KEY");
        let mut process = serve.spawn().context("starting ds4 serve")?;
        let mut lines = BufReader::new(process.stderr.take().context("its standard error")?).lines();
        let mut url = None;
        for line in lines.by_ref() {
            let line = line?;
            eprintln!("{line}");
            if let Some(address) = line.strip_prefix("listening on ") {
                url = Some(address.to_owned());
            }
            if line.starts_with("ready:") {
                break;
            }
        }
        // Somebody has to read the rest, or the server would wait for that.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| eprintln!("{line}")));
        let url = url.context("ds4 serve ended before it listened")?;
        Ok(Server { process, url })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
