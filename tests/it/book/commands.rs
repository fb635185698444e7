//! Every `bearerd` command of the documentation is one, and those that need no server print what the page shows.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::markdown::{Block, Page, guides, root};

/// The commands that need neither a server nor a person.
const RUNNABLE: [&str; 8] =
    ["check", "completions", "explain", "keygen", "man", "schema", "--help", "--version"];
/// Commands of the shell that prepare the others.
const PREPARING: [&str; 4] = ["chmod", "echo", "mkdir", "printf"];
/// Programs that run a command in a container.
const CONTAINERS: [&str; 3] = ["docker", "kubectl", "podman"];

/// The words of a command line, up to the first that is for the shell.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(end), c) if c == end => quote = None,
            (None, '\'' | '"') => {
                word.get_or_insert_default();
                quote = Some(c);
            }
            (None, ' ') => words.extend(word.take()),
            (None, '|' | '>' | '<' | ';' | '&' | ')') => break,
            (None, '#') if word.is_none() => break,
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

fn is_bearerd(word: &str) -> bool {
    word == "bearerd" || word.ends_with("/bearerd")
}

/// The arguments of `bearerd` in a command line, its own name first.
fn invocation(line: &str) -> Option<Vec<String>> {
    let words = words(line.trim_start_matches('('));
    let is_setting =
        |word: &String| word == "sudo" || word.split_once('=').is_some_and(|(name, _)| !name.contains('-'));
    let own: Vec<String> = words.into_iter().skip_while(is_setting).collect();
    let first = own.first()?;
    let start = if is_bearerd(first) {
        0
    } else if CONTAINERS.contains(&first.as_str()) {
        let last = own.iter().rposition(|word| word == "bearerd")?;
        // The value of an option, such as a namespace.
        if own[last - 1] != "--" && own[last - 1].starts_with('-') {
            return None;
        }
        // The name of an image or a container is no command.
        own.get(last + 1).filter(|next| next.chars().all(|c| c.is_ascii_lowercase()))?;
        last
    } else {
        return None;
    };
    let mut found = own[start..].to_vec();
    "bearerd".clone_into(&mut found[0]);
    (found.len() > 1).then_some(found)
}

/// Why clap does not accept an invocation.
fn mistake(invocation: &[String]) -> Option<String> {
    bearerd::cli::understand(invocation).err()
}

/// Whether an invocation lacks arguments only, as in prose.
fn is_incomplete(mistake: &str) -> bool {
    mistake.contains("required arguments were not provided") || mistake.contains("requires a subcommand")
}

/// Whether a value is a word for any value, such as `ADDRESS`.
fn is_placeholder(mistake: &str) -> bool {
    let value = mistake.split_once("invalid value '").and_then(|(_, rest)| rest.split_once('\''));
    value.is_some_and(|(value, _)| value.chars().all(|c| c.is_ascii_uppercase()))
}

/// The command lines of a page: of its blocks, and of its prose, where they may be incomplete.
fn command_lines(page: &Page) -> Vec<(usize, String, bool)> {
    let mut found = Vec::new();
    for block in page.blocks() {
        let is_console = block.is("console");
        if !is_console && !block.is("sh") && !block.is("bash") {
            continue;
        }
        let lines = block.text.lines().enumerate();
        found.extend(lines.filter_map(|(index, line)| {
            let line = if is_console { line.strip_prefix("$ ")? } else { line };
            Some((block.line + index, line.to_owned(), true))
        }));
    }
    for line in page.lines().into_iter().filter(|line| !line.is_fenced) {
        if let Some(code) = line.text.strip_prefix("    ") {
            found.push((line.number, code.trim_start_matches("$ ").trim().to_owned(), true));
        } else {
            let code = line.text.split('`').skip(1).step_by(2);
            found.extend(code.map(|code| (line.number, code.to_owned(), false)));
        }
    }
    found
}

fn unknown_commands(page: &Page) -> Vec<String> {
    let mut unknown = Vec::new();
    for (number, line, is_whole) in command_lines(page) {
        let Some(invocation) = invocation(&line) else { continue };
        // A word that stands for any command, or an option in brackets.
        let is_pattern = |word: &String| word == "COMMAND" || word.starts_with('[') || word == "…";
        if invocation.iter().any(is_pattern) {
            continue;
        }
        if let Some(mistake) = mistake(&invocation)
            && !is_placeholder(&mistake)
            && (is_whole || !is_incomplete(&mistake))
        {
            unknown.push(format!("{}:{number}: {line}: {mistake}", page.path.display()));
        }
    }
    unknown
}

#[test]
fn every_command_of_the_documentation_exists_with_its_options() {
    let unknown: Vec<String> = guides().iter().flat_map(unknown_commands).collect();
    assert!(unknown.is_empty(), "{}", unknown.join("\n"));
    let seen =
        guides().iter().flat_map(command_lines).filter(|(_, line, _)| invocation(line).is_some()).count();
    assert!(seen > 80, "{seen} commands");
}

#[test]
fn a_command_that_does_not_exist_is_found() {
    for text in [
        "```console\n$ bearerd chekc\n```\n",
        "```console\n$ API=x bearerd check --onlin   # a comment\n```\n",
        "```sh\ndocker exec -it x bearerd status --jsn\n```\n",
        "Run `bearerd reload`.\n",
        "    bearerd login\n",
    ] {
        assert_eq!(unknown_commands(&Page::new("x.md", text)).len(), 1, "{text}");
    }
    for text in [
        "`bearerd login`",
        "    docker build -t bearerd .",
        "    (umask 077; bearerd nothing)",
        "`bearerd COMMAND -h`",
    ] {
        assert_eq!(unknown_commands(&Page::new("x.md", text)), [""; 0], "{text}");
    }
}

/// A command of a console block, and the output that the page shows.
#[derive(Debug, PartialEq)]
struct Step {
    line: usize,
    command: String,
    output: Vec<String>,
}

fn steps(block: &Block) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for (index, line) in block.text.lines().enumerate() {
        if let Some(command) = line.strip_prefix("$ ") {
            let step = Step { line: block.line + index, command: command.to_owned(), output: Vec::new() };
            steps.push(step);
        } else if let Some(step) = steps.last_mut() {
            step.output.push(line.to_owned());
        }
    }
    steps
}

/// Whether the text is as shown, where `…` stands for anything and a line of `…` for any lines.
fn is_as_shown(shown: &[String], text: &[&str]) -> bool {
    match shown {
        [] => text.is_empty(),
        [first, rest @ ..] if first == "…" => {
            (0..=text.len()).any(|skipped| is_as_shown(rest, &text[skipped..]))
        }
        [first, rest @ ..] => {
            text.first().is_some_and(|line| is_line_as_shown(first, line)) && is_as_shown(rest, &text[1..])
        }
    }
}

fn is_line_as_shown(shown: &str, line: &str) -> bool {
    let line = line.trim_end();
    let mut parts = shown.split('…');
    let Some(mut rest) = parts.next().and_then(|first| line.strip_prefix(first)) else { return false };
    let parts: Vec<&str> = parts.collect();
    for (index, part) in parts.iter().enumerate() {
        if index + 1 == parts.len() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.is_empty()
}

/// What happens if the console blocks of a page are followed in a new folder.
struct Session {
    folder: tempfile::TempDir,
    environment: BTreeMap<String, String>,
    last_code: i32,
    walk: Option<Walk>,
}

/// A page that has servers of its own: their processes, and the ports in the place of those on the page.
struct Walk {
    ports: [(&'static str, String); 3],
    processes: Vec<Child>,
}

impl Drop for Walk {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Walk {
    fn new() -> Self {
        // Not of the ports that the system gives to the connections of other tests.
        let mut free = (0..9000)
            .map(|step| 20_000 + (std::process::id() + step * 7) % 9000)
            .filter(|port| TcpListener::bind(("127.0.0.1", u16::try_from(*port).unwrap())).is_ok());
        let ports = ["8443", "8080", "9090"].map(|port| (port, free.next().unwrap().to_string()));
        Self { ports, processes: Vec::new() }
    }

    fn here(&self, text: &str) -> String {
        self.ports.iter().fold(text.to_owned(), |text, (written, here)| text.replace(written, here))
    }
}

impl Session {
    fn new(page: &Page) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(root().join("proxy.toml"), folder.path().join("proxy.toml")).unwrap();
        let home = folder.path().to_str().unwrap().to_owned();
        let mut environment = BTreeMap::from([("HOME".to_owned(), home)]);
        let walk = page.text.contains("<!-- a test follows this page -->").then(Walk::new);
        if let Some(walk) = &walk {
            for (section, port) in [("SERVER", 1), ("ADMIN", 2)] {
                let address = format!("127.0.0.1:{}", walk.ports[port].1);
                environment.insert(format!("BEARERD_{section}__LISTEN"), address);
            }
        } else if !page.blocks().iter().any(|block| block.is("toml")) {
            // The shipped configuration needs its secret.
            environment.insert("API_CLIENT_SECRET".to_owned(), "x".to_owned());
        }
        Self { folder, environment, last_code: 0, walk }
    }

    fn here(&self, text: &str) -> String {
        self.walk.as_ref().map_or_else(|| text.to_owned(), |walk| walk.here(text))
    }

    /// Runs a step if it can be run here; returns how the output differs from what the page shows.
    fn take(&mut self, step: &Step) -> Option<String> {
        let output = step.output.iter().map(|line| self.here(line)).collect();
        let step = &Step { line: step.line, command: self.here(&step.command), output };
        if self.walk.is_some()
            && let Some(command) = step.command.strip_suffix(" &")
        {
            self.spawn(command);
            return None;
        }
        if let Some(setting) = step.command.strip_prefix("export ") {
            let (name, value) = setting.split_once('=').unwrap();
            let value = words(value).join(" ");
            self.environment
                .insert(name.to_owned(), if value == "…" { "a-secret".to_owned() } else { value });
            return None;
        }
        let text = if step.command == "echo $?" {
            format!("{}\n", self.last_code)
        } else if let (Some(_), Some(url)) = (&self.walk, step.command.strip_prefix("curl -i ")) {
            get(url)
        } else if self.is_runnable(&step.command) {
            self.run(&step.command)
        } else {
            return None;
        };
        let lines: Vec<&str> = text.trim_end().lines().collect();
        let is_right = step.output.is_empty() || is_as_shown(&step.output, &lines);
        (!is_right).then(|| format!("{}: {}\n{text}", step.line, step.command))
    }

    fn is_runnable(&self, command: &str) -> bool {
        let first = command.trim_start_matches('(').split(' ').next().unwrap();
        if PREPARING.contains(&first) || first == "umask" {
            return true;
        }
        let Some(invocation) = invocation(command) else { return false };
        self.walk.is_some()
            || RUNNABLE.contains(&invocation[1].as_str()) && !invocation.iter().any(|word| word == "--online")
    }

    fn shell(&self, command: &str) -> Command {
        let binary = Path::new(env!("CARGO_BIN_EXE_bearerd")).parent().unwrap().display();
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(command).current_dir(self.folder.path()).env_clear();
        shell.env("PATH", format!("{binary}:{}", std::env::var("PATH").unwrap())).envs(&self.environment);
        shell
    }

    /// Starts a server, and waits for its first words.
    fn spawn(&mut self, command: &str) {
        let mut shell = self.shell(&format!("exec {command} 2>&1"));
        let mut process = shell.stdout(Stdio::piped()).spawn().unwrap();
        let mut first = [0];
        process.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
        self.walk.as_mut().unwrap().processes.push(process);
    }

    fn run(&mut self, command: &str) -> String {
        let output = self.shell(&format!("{command} 2>&1")).output().unwrap();
        self.last_code = output.status.code().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

/// The response to a GET, as `curl -i` prints it.
fn get(url: &str) -> String {
    let (authority, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(authority).unwrap();
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text.replace('\r', "")
}

/// The differences between a page and what its commands print.
fn differences(page: &Page) -> Vec<String> {
    let mut session = Session::new(page);
    let mut differences = Vec::new();
    for block in page.blocks() {
        if block.is("toml") && block.info.len() == 1 {
            std::fs::write(session.folder.path().join("proxy.toml"), session.here(&block.text)).unwrap();
        }
        if block.is("console") {
            let steps = steps(&block);
            let found = steps.iter().filter_map(|step| session.take(step));
            differences.extend(found.map(|found| format!("{}:{found}", page.path.display())));
        }
    }
    differences
}

#[test]
fn commands_print_what_the_documentation_shows() {
    let found: Vec<String> = guides().iter().flat_map(differences).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn an_output_that_differs_is_found() {
    let page = |output: &str| {
        let text = "```toml\n[[routes]]\nupstream = \"https://a.example.com\"\ncredential = \"none\"\n```\n";
        Page::new("x.md", &format!("{text}```console\n$ bearerd check\n{output}\n$ echo $?\n0\n```\n"))
    };
    assert_eq!(differences(&page("proxy.toml: ok (1 route, 0 credentials)")), [""; 0]);
    assert_eq!(differences(&page("proxy.toml: ok (2 routes, 0 credentials)")).len(), 1);
    assert!(is_as_shown(&["a…c".to_owned(), "…".to_owned(), "z".to_owned()], &["abc", "x", "y", "z"]));
    assert!(!is_as_shown(&["a…c".to_owned()], &["abd"]));
}

/// Numbers of milliseconds differ between two runs.
fn without_times(line: &str) -> String {
    let words = line.trim().split(' ').collect::<Vec<_>>();
    let is_time = |index: usize| words.get(index + 1).is_some_and(|next| next.starts_with("ms"));
    let shown = words.iter().enumerate().map(|(index, word)| if is_time(index) { "N" } else { word });
    shown.collect::<Vec<_>>().join(" ")
}

#[test]
fn the_demo_prints_what_the_readme_shows() {
    let readme = Page::named("README.md");
    let shown =
        readme.blocks().into_iter().find(|block| block.above.contains("output of: bearerd demo --once"));
    let shown = shown.expect("a block with the output of the demo");
    let output = Command::new(env!("CARGO_BIN_EXE_bearerd")).args(["demo", "--once"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut printed = text.lines().map(without_times);
    for line in shown.text.lines().filter(|line| !line.is_empty()).map(without_times) {
        assert!(printed.any(|printed| printed == line), "{line}\n{text}");
    }
}
