//! The report in a real browser: where Chromium is, its layout is measured and looked at for what a person would find wrong. With
//! `MILLRACE_BROWSER=1` a missing browser fails (`deploy/install-deps.sh browser`).

use std::path::Path;
use std::process::Command;

const HARNESS: &str = env!("CARGO_BIN_EXE_millrace-harness");

fn browser() -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let mut found = std::env::split_paths(&path).flat_map(|folder| names.map(|n| folder.join(n)));
    let program = found.find(|file| file.is_file()).map(|file| file.display().to_string());
    if program.is_none() {
        assert!(
            std::env::var_os("MILLRACE_BROWSER").is_none(),
            "MILLRACE_BROWSER is set, but there is no Chromium"
        );
        eprintln!("skipped: no Chromium");
    }
    program
}

fn run(program: &str, folder: &Path, flags: &[String]) -> String {
    let output = Command::new("timeout")
        .args(["60", program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"])
        .args(["--no-first-run", "--disable-background-networking", "--disable-component-update"])
        .args(["--disable-sync", "--hide-scrollbars"])
        .arg(format!("--user-data-dir={}", folder.join("profile").display()))
        .args(flags)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Looks at the page from inside: texts that overlap or leave their picture, a page wider than its window, headings without a picture.
const LOOK: &str = r#"<script>
const wrong = [];
for (const svg of document.querySelectorAll('svg')) {
  const name = svg.getAttribute('aria-label'), box = svg.getBoundingClientRect();
  if (box.width < 300 || box.height < 40) wrong.push(name + ': no size');
  const texts = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
  for (const [words, r] of texts)
    if (r.left < box.left - 1 || r.right > box.right + 1 || r.top < box.top - 1 || r.bottom > box.bottom + 1)
      wrong.push(name + ': outside: ' + words);
  texts.forEach(([a, r], i) => texts.slice(i + 1).forEach(([b, s]) => {
    const w = Math.min(r.right, s.right) - Math.max(r.left, s.left), h = Math.min(r.bottom, s.bottom) - Math.max(r.top, s.top);
    if (w > 1 && h > 5) wrong.push(name + ': overlap: ' + a + ' / ' + b);
  }));
}
if (document.documentElement.scrollWidth > innerWidth) wrong.push('page wider than window: ' + document.documentElement.scrollWidth + ' > ' + innerWidth);
for (const s of document.querySelectorAll('section')) if (!s.querySelector('svg')) wrong.push('no picture: ' + s.textContent);
const link = document.querySelector('a[download]').href;
try { const all = JSON.parse(atob(link.split(',')[1])); if (all[0].schema != 'millrace-perf/1') wrong.push('schema'); } catch (e) { wrong.push('results: ' + e); }
const contrast = (c, d) => { const l = x => { const v = x.match(/[\d.]+/g).slice(0, 3).map(n => n / 255).map(n => n <= .03928 ? n / 12.92 : ((n + .055) / 1.055) ** 2.4);
  return .2126 * v[0] + .7152 * v[1] + .0722 * v[2] }; const [a, b] = [l(c), l(d)].sort((x, y) => y - x); return (a + .05) / (b + .05) };
const back = getComputedStyle(document.body).backgroundColor;
for (const t of document.querySelectorAll('p, td, th, li, h1, h2, text')) {
  const style = getComputedStyle(t), color = t.tagName == 'text' ? style.fill : style.color;
  if (contrast(color, back) < 4.5) wrong.push('contrast ' + contrast(color, back).toFixed(1) + ': ' + t.textContent);
}
document.body.innerHTML = '<pre id="found">' + JSON.stringify({ back, pictures: document.querySelectorAll('svg').length, wrong }).replace(/</g, '\\u003c') + '</pre>';
</script>"#;

#[test]
fn the_report_looks_right_in_a_browser_wide_and_narrow_light_and_dark() {
    looks_right("result.json", 12);
}

/// Of a real run of connections and sessions in two rounds, one of which has a step that was never complete.
#[test]
fn connections_and_sessions_look_right_as_well() {
    looks_right("stateful.json", 2);
}

fn looks_right(data: &str, pictures: u64) {
    let Some(browser) = browser() else { return };
    let folder = millrace_harness::folder::Folder::create("browser").unwrap();
    let page = folder.path().join("report.html");
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(data);
    let made = Command::new(HARNESS).arg("report").arg(data).arg("-o").arg(&page).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let html = std::fs::read_to_string(&page).unwrap();
    let looked = folder.path().join("looked.html");
    // The number of pictures is taken before the page is replaced by what was found.
    let script = LOOK.replace("pictures: document.querySelectorAll('svg').length", "pictures");
    let script = script.replace(
        "const wrong = [];",
        "const wrong = [], pictures = document.querySelectorAll('svg').length;",
    );
    std::fs::write(&looked, html.replace("</body>", &format!("{script}</body>"))).unwrap();
    for (width, scheme, back) in [
        (1280, "1", "rgb(255, 255, 255)"),
        (500, "1", "rgb(255, 255, 255)"),
        (1280, "0", "rgb(20, 23, 27)"),
    ] {
        let flags = [
            format!("--window-size={width},900"),
            format!("--blink-settings=preferredColorScheme={scheme}"),
            "--dump-dom".into(),
            format!("file://{}", looked.display()),
        ];
        let dom = run(&browser, folder.path(), &flags);
        let found =
            dom.split("<pre id=\"found\">").nth(1).and_then(|rest| rest.split("</pre>").next());
        let found = found.unwrap_or_else(|| panic!("the page's script did not run: {dom}"));
        let found = found.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
        let found: serde_json::Value = serde_json::from_str(&found).unwrap();
        assert_eq!(found["wrong"], serde_json::json!([]), "at {width}, scheme {scheme}");
        assert_eq!(found["back"], back);
        assert!(found["pictures"].as_u64().unwrap() >= pictures);
    }
    let picture = folder.path().join("report.png");
    let flags = [
        "--window-size=1000,3000".into(),
        format!("--screenshot={}", picture.display()),
        format!("file://{}", page.display()),
    ];
    run(&browser, folder.path(), &flags);
    assert!(std::fs::metadata(&picture).unwrap().len() > 50_000);
    if let Some(keep) = std::env::var_os("MILLRACE_SCREENSHOT") {
        std::fs::copy(&picture, keep).unwrap();
    }
}
