//! A real Chromium without a window, driven by the WebDriver protocol
//! (<https://www.w3.org/TR/webdriver2/>).

#![allow(dead_code, unreachable_pub, reason = "no test program uses all of it")]

use std::cell::RefCell;
use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::common::Folder;
use crate::common::client::{PATIENCE, Request, send};

/// A name that is not localhost and leads to this machine, in the browser only.
pub const ELSEWHERE: &str = "app.test";

/// A host of the same site as [`ELSEWHERE`], which is this machine too.
pub const SIBLING: &str = "shop.app.test";

/// The paths of Chromium and of its driver.
pub struct Programs {
    chromium: PathBuf,
    driver: PathBuf,
}

impl Programs {
    /// Looks for both on the PATH. Where one is missing this says so past the capture of test
    /// output, which would hide it.
    pub fn find() -> Option<Self> {
        let chromium =
            ["chromium", "chromium-browser", "google-chrome"].into_iter().find_map(on_path);
        if let (Some(chromium), Some(driver)) = (chromium, on_path("chromedriver")) {
            return Some(Programs { chromium, driver });
        }
        let missing = "chromium or chromedriver is missing (Debian: chromium chromium-driver)";
        let required = env::var("CLOAKROOM_REQUIRE_BROWSER").is_ok_and(|value| value == "1");
        assert!(!required, "{missing}");
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        let words = format!("\n*** SKIPPED: {test}: {missing}\n");
        io::stderr().write_all(words.as_bytes()).unwrap();
        None
    }
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// A browser that knows nothing yet: no cookies, no history.
pub struct Chromium {
    address: SocketAddr,
    /// The driver's name for this run of the browser.
    session: String,
    /// The tab to which the driver was turned last.
    focused: RefCell<String>,
    /// Ends the driver and the browser, when it is dropped before the folder that they write to.
    _group: Group,
    _folder: Folder,
}

/// Programs that end with this one, however it ends: their keeper reads from a pipe that closes
/// then. A driver that is killed leaves its browser behind, and a test that is interrupted drops
/// nothing.
struct Group(Child);

/// Only the driver keeps the pipe of its output, so that the pipe ends with it.
const KEEPER: &str = "\"$@\" & exec >/dev/null; read -r _; kill -s KILL 0";

/// The driver takes a free port of IPv4 and then the same of IPv6, and ends if that is taken.
const STARTS: usize = 5;

impl Group {
    fn start(program: &Path, argument: &str, temporary_files: &Path) -> Self {
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, "sh"]).arg(program).arg(argument);
        keeper.env("TMPDIR", temporary_files).process_group(0);
        keeper.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        Group(keeper.spawn().unwrap())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Starts the driver, and returns its port. `None` if it ends before it has one.
fn start_driver(driver: &Path, folder: &Folder) -> Option<(Group, u16)> {
    let mut group = Group::start(driver, "--port=0", &folder.path(""));
    let mut out = BufReader::new(group.0.stdout.take().unwrap());
    let port = loop {
        let mut line = String::new();
        if out.read_line(&mut line).unwrap() == 0 {
            return None;
        }
        if let Some((_, port)) = line.trim_end().rsplit_once("successfully on port ") {
            break port.trim_end_matches('.').parse().unwrap();
        }
    };
    // Kept open, since a write to a closed pipe would end the driver.
    group.0.stdout = Some(out.into_inner());
    Some((group, port))
}

impl Chromium {
    pub fn start(programs: &Programs) -> Self {
        let folder = Folder::new();
        let started = (0..STARTS).find_map(|_| start_driver(&programs.driver, &folder));
        let (group, port) = started.expect("the driver starts");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let body = capabilities(&programs.chromium, &folder.path("data"));
        let session = command(address, "POST", "/session", &body).unwrap();
        let session = session["sessionId"].as_str().unwrap().to_owned();
        let focused = RefCell::default();
        Chromium { address, session, focused, _group: group, _folder: folder }
    }

    /// Opens one more tab.
    pub fn tab(&self) -> Tab<'_> {
        let opened = self.command("POST", "/window/new", &json!({ "type": "tab" }));
        Tab { chromium: self, handle: opened["handle"].as_str().unwrap().to_owned() }
    }

    /// Forgets the cookies of all hosts, for which WebDriver has no word of its own.
    pub fn forget_cookies(&self) {
        self.devtools("Network.clearBrowserCookies", &json!({}));
    }

    #[track_caller]
    fn devtools(&self, command: &str, parameters: &Value) {
        let body = json!({ "cmd": command, "params": parameters });
        self.command("POST", "/goog/cdp/execute", &body);
    }

    #[track_caller]
    fn command(&self, method: &'static str, path: &str, body: &Value) -> Value {
        self.try_command(method, path, body).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn try_command(&self, method: &'static str, path: &str, body: &Value) -> Result<Value, String> {
        command(self.address, method, &format!("/session/{}{path}", self.session), body)
    }
}

fn command(
    driver: SocketAddr,
    method: &'static str,
    path: &str,
    body: &Value,
) -> Result<Value, String> {
    // The driver keeps connections open also when it is asked not to.
    let request = Request::new(method, path).keep_alive();
    let request = if method == "POST" { request.body(body.to_string()) } else { request };
    let answer = send(driver, &request).map_err(|error| error.to_string())?;
    let mut body: Value = serde_json::from_slice(&answer.body).unwrap();
    match answer.status {
        200 => Ok(body["value"].take()),
        _ => Err(format!("{}: {}", body["value"]["error"], body["value"]["message"])),
    }
}

fn capabilities(chromium: &Path, data: &Path) -> Value {
    let resolver =
        format!("--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1, MAP {SIBLING} 127.0.0.1");
    let data = format!("--user-data-dir={}", data.display());
    let arguments = [
        "--headless",
        // Root, as which CI runs, has no sandbox.
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        // A container may have next to no /dev/shm.
        "--disable-dev-shm-usage",
        // A proxy of the environment knows nothing of the names here.
        "--no-proxy-server",
        &resolver,
        &data,
    ];
    let options = json!({ "binary": chromium, "args": arguments });
    let always = json!({ "acceptInsecureCerts": true, "goog:chromeOptions": options });
    json!({ "capabilities": { "alwaysMatch": always } })
}

/// The contents of a page of the application.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct Page {
    pub visits: u64,
    pub user: Option<String>,
    pub flashes: Vec<String>,
}

impl Page {
    pub fn new(visits: u64, user: impl Into<Option<&'static str>>, flashes: &[&str]) -> Self {
        let flashes = flashes.iter().map(|&flash| flash.to_owned()).collect();
        Page { visits, user: user.into().map(str::to_owned), flashes }
    }
}

/// A cookie as the browser reports it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cookie {
    pub name: String,
    pub value: String,
    /// With a dot in front if it goes to subdomains too.
    pub domain: String,
    pub path: String,
    pub secure: bool,
    pub http_only: bool,
    pub same_site: String,
    /// In seconds since 1970; none if it goes with the browser.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expiry: Option<u64>,
}

pub struct Tab<'c> {
    chromium: &'c Chromium,
    handle: String,
}

impl Tab<'_> {
    /// Turns the driver to this tab.
    #[track_caller]
    fn focus(&self) {
        let mut focused = self.chromium.focused.borrow_mut();
        if *focused != self.handle {
            self.chromium.command("POST", "/window", &json!({ "handle": self.handle }));
            focused.clone_from(&self.handle);
        }
    }

    #[track_caller]
    fn command(&self, method: &'static str, path: &str, body: &Value) -> Value {
        self.focus();
        self.chromium.command(method, path, body)
    }

    /// Goes to this address and waits for the page.
    #[track_caller]
    pub fn open(&self, url: &str) {
        self.command("POST", "/url", &json!({ "url": url }));
    }

    #[track_caller]
    pub fn reload(&self) {
        self.command("POST", "/refresh", &json!({}));
    }

    /// Runs a script in the page and returns its result.
    #[track_caller]
    pub fn script(&self, script: &str) -> Value {
        self.command("POST", "/execute/sync", &json!({ "script": script, "args": [] }))
    }

    #[track_caller]
    fn element(&self, selector: &str) -> String {
        let query = json!({ "using": "css selector", "value": selector });
        let found = self.command("POST", "/element", &query);
        let id = found.as_object().unwrap().values().next().unwrap().as_str().unwrap();
        format!("/element/{id}")
    }

    #[track_caller]
    pub fn type_into(&self, selector: &str, text: &str) {
        let element = self.element(selector);
        self.command("POST", &format!("{element}/clear"), &json!({}));
        self.command("POST", &format!("{element}/value"), &json!({ "text": text }));
    }

    /// Clicks on what leads to another page, and waits for that.
    #[track_caller]
    pub fn follow(&self, selector: &str) {
        let element = self.element(selector);
        self.leave(|| {
            self.command("POST", &format!("{element}/click"), &json!({}));
        });
    }

    /// Does what leads to another page, and waits for that.
    #[track_caller]
    pub fn leave(&self, act: impl FnOnce()) {
        self.script("window.old = true");
        act();
        // The driver waits for what a click has begun, but a page may begin a moment later.
        let arrived = "return !window.old && document.readyState === 'complete'";
        let body = json!({ "script": arrived, "args": [] });
        let started = Instant::now();
        while self.chromium.try_command("POST", "/execute/sync", &body) != Ok(Value::Bool(true)) {
            assert!(started.elapsed() < PATIENCE, "the page stays");
        }
    }

    /// Fetches this path by a script of the page and returns the text.
    #[track_caller]
    pub fn fetch(&self, path: &str) -> String {
        let script = format!("return fetch('{path}').then(answer => answer.text())");
        serde_json::from_value(self.script(&script)).unwrap()
    }

    pub fn close(self) {
        self.command("DELETE", "/window", &Value::Null);
    }

    /// Goes back to the page before this one.
    #[track_caller]
    pub fn back(&self) {
        self.command("POST", "/back", &json!({}));
    }

    /// Moves the mouse to an element and presses its button twice.
    #[track_caller]
    pub fn double_click(&self, selector: &str) {
        let query = json!({ "using": "css selector", "value": selector });
        let element = self.command("POST", "/element", &query);
        let down = json!({ "type": "pointerDown", "button": 0 });
        let up = json!({ "type": "pointerUp", "button": 0 });
        let to = json!({ "type": "pointerMove", "origin": element, "x": 0, "y": 0, "duration": 0 });
        let mouse = json!({
            "type": "pointer",
            "id": "mouse",
            "parameters": { "pointerType": "mouse" },
            "actions": [to, down, up, down, up],
        });
        self.command("POST", "/actions", &json!({ "actions": [mouse] }));
    }

    /// The protocol by which the page came, as ALPN names it: `http/1.1`, `h2`.
    #[track_caller]
    pub fn protocol(&self) -> String {
        let script = "return performance.getEntriesByType('navigation')[0].nextHopProtocol";
        serde_json::from_value(self.script(script)).unwrap()
    }

    #[track_caller]
    pub fn sign_in(&self, user: &str, password: &str) {
        self.type_into("input[name=user]", user);
        self.type_into("input[name=password]", password);
        self.follow("form[action='/sign-in'] button");
    }

    #[track_caller]
    pub fn sign_out(&self) {
        self.follow("form[action='/sign-out'] button");
    }

    #[track_caller]
    pub fn page(&self) -> Page {
        let page = self.script(
            "const signedIn = document.querySelector('form[action=\"/sign-out\"]');
             return {
                 visits: Number(document.querySelector('.count').textContent.match(/\\d+/)[0]),
                 user: signedIn && document.querySelector('strong').textContent,
                 flashes: [...document.querySelectorAll('.flash')].map(flash => flash.textContent),
             };",
        );
        serde_json::from_value(page).unwrap()
    }

    /// All cookies that the browser would send to this page.
    #[track_caller]
    pub fn cookies(&self) -> Vec<Cookie> {
        serde_json::from_value(self.command("GET", "/cookie", &Value::Null)).unwrap()
    }

    /// The one cookie there is.
    #[track_caller]
    pub fn cookie(&self) -> Cookie {
        let mut cookies = self.cookies();
        assert_eq!(cookies.len(), 1, "{cookies:?}");
        cookies.remove(0)
    }

    /// Takes a cookie of this page's host, in place of one of its name.
    #[track_caller]
    pub fn take_cookie(&self, cookie: &Cookie) {
        let mut cookie = serde_json::to_value(cookie).unwrap();
        // Where it is named the cookie is for subdomains too, as one with `__Host-` must not be.
        cookie.as_object_mut().unwrap().remove("domain");
        self.command("POST", "/cookie", &json!({ "cookie": cookie }));
    }

    /// Looks at the page on a phone and on a desk: nothing sticks out at the side. With
    /// `CLOAKROOM_SCREENSHOTS=folder` pictures are left for a person.
    #[track_caller]
    pub fn look(&self, name: &str) {
        self.focus();
        for (width, height) in [(375, 800), (1280, 800)] {
            let screen = json!({
                "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500,
            });
            self.chromium.devtools("Emulation.setDeviceMetricsOverride", &screen);
            let page = self.script("return document.documentElement.scrollWidth");
            assert!(page.as_u64().unwrap() <= width, "{name} is {page} wide on {width}");
            if let Some(folder) = env::var_os("CLOAKROOM_SCREENSHOTS") {
                let picture = self.command("GET", "/screenshot", &Value::Null);
                let picture = BASE64_STANDARD.decode(picture.as_str().unwrap()).unwrap();
                let file = Path::new(&folder).join(format!("{name}-{width}.png"));
                fs::write(file, picture).unwrap();
            }
        }
    }
}
