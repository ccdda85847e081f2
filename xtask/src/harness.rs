//! What Rust's test harness prints, read line by line.

/// How much of what a failed test said is shown.
const SAID_LINES: usize = 40;

/// How a suite went.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) ignored: usize,
    /// One line each: a test that failed, a guest that died.
    pub(crate) problems: Vec<String>,
    /// Tests with the milliseconds between their line and the one before.
    pub(crate) tests: Vec<(String, u64)>,
}

/// What a failed test said, from its first panic on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) test: String,
    pub(crate) lines: Vec<String>,
}

/// Finds what each failed test said: before its verdict (tests that run one after another) or below its name at the end
/// (Rust's own harness); the first `limit` lines from the panic on, which say what differed.
pub(crate) fn failures(output: &[&str], limit: usize) -> Vec<Said> {
    let mut found = Vec::new();
    let mut block = Block::default();
    for line in output {
        let verdict = line
            .strip_prefix("test ")
            .and_then(|rest| rest.split_once(" ... "));
        let heading = line
            .strip_prefix("---- ")
            .and_then(|rest| rest.strip_suffix(" stdout ----"));
        if let Some((name, verdict)) = verdict {
            let ended = std::mem::take(&mut block);
            if verdict.starts_with("FAILED") {
                found.extend(ended.of(name));
            }
        } else if let Some(name) = heading {
            found.extend(std::mem::take(&mut block).of("a test"));
            block.name = Some(name.to_owned());
        } else {
            block.line(line, limit);
        }
    }
    found.extend(block.of("the test that was under way"));
    found
}

/// What a test has said until now.
#[derive(Debug, Default)]
struct Block {
    name: Option<String>,
    panicked: bool,
    lines: Vec<String>,
}

impl Block {
    fn line(&mut self, line: &str, limit: usize) {
        self.panicked |= line.starts_with("thread '") && line.contains("panicked at");
        if self.panicked && self.lines.len() < limit {
            self.lines.push(line.to_owned());
        }
    }

    fn of(self, name: &str) -> Option<Said> {
        (!self.lines.is_empty()).then(|| Said {
            test: self.name.unwrap_or_else(|| name.to_owned()),
            lines: self.lines,
        })
    }
}

/// Prints what each failed test said.
pub(crate) fn print_failures(output: &[&str]) {
    for said in failures(output, SAID_LINES) {
        println!("--- {} said", said.test);
        said.lines.iter().for_each(|line| println!("{line}"));
    }
}

impl Tally {
    /// Takes one line: `test NAME ... ok`; others are passed over.
    pub(crate) fn line(&mut self, said: &str, milliseconds: u64) {
        let Some((name, verdict)) = said
            .strip_prefix("test ")
            .and_then(|rest| rest.split_once(" ... "))
        else {
            return;
        };
        match verdict.split([',', ' ']).next() {
            Some("ok") => self.passed += 1,
            Some("FAILED") => {
                self.failed += 1;
                self.problems.push(format!("test {name} failed"));
            }
            Some("ignored") => self.ignored += 1,
            _ => return,
        }
        self.tests.push((name.to_owned(), milliseconds));
    }

    /// Something that is no test went wrong: counts as one failure at least.
    pub(crate) fn fail(&mut self, problem: String) {
        self.failed = self.failed.max(1);
        self.problems.push(problem);
    }

    /// Compares with how the test program ended: nothing is good by silence.
    pub(crate) fn ended(&mut self, code: Option<i32>) {
        match code {
            Some(0) if self.passed + self.failed == 0 => self.fail("no test ran".to_owned()),
            Some(0) => {}
            // The failed tests have been named.
            Some(101) if self.failed > 0 => {}
            Some(code) => self.fail(format!("the test program ended with code {code}")),
            None => self.fail("the test program was ended by a signal".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_and_failures_named() {
        let mut tally = Tally::default();
        for line in [
            "running 4 tests",
            "test a::b ... ok",
            "test c ... FAILED",
            "test d ... ignored, needs x",
            "test e - should panic ... ok",
            "test result: FAILED. 2 passed; 1 failed",
        ] {
            tally.line(line, 5);
        }
        assert_eq!((tally.passed, tally.failed, tally.ignored), (2, 1, 1));
        assert_eq!(tally.problems, ["test c failed"]);
        assert_eq!(tally.tests.len(), 4);
    }

    #[test]
    fn what_failed_tests_said_is_found() {
        let output = "running 3 tests\n\
             chatter\n\
             test a ... ok\n\
             chatter\n\
             thread 'main' panicked at b.rs:1:2:\n\
             one\ntwo\nthree\n\
             test b ... FAILED\n\
             thread 'main' panicked at c.rs:1:2:";
        let said = |test: &str, lines: &[&str]| Said {
            test: test.to_owned(),
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
        };
        assert_eq!(
            failures(&output.lines().collect::<Vec<_>>(), 3),
            [
                said("b", &["thread 'main' panicked at b.rs:1:2:", "one", "two"]),
                said(
                    "the test that was under way",
                    &["thread 'main' panicked at c.rs:1:2:"]
                ),
            ]
        );
    }

    #[test]
    fn what_is_told_below_the_results_is_found() {
        let output = "test a ... FAILED\ntest b ... ok\n\nfailures:\n\n---- a stdout ----\n\
             thread 'a' panicked at a.rs:1:2:\nleft\n\n\nfailures:\n    a";
        assert_eq!(
            failures(&output.lines().collect::<Vec<_>>(), 2),
            [Said {
                test: "a".to_owned(),
                lines: vec![
                    "thread 'a' panicked at a.rs:1:2:".to_owned(),
                    "left".to_owned()
                ]
            }]
        );
    }

    #[test]
    fn an_empty_or_broken_run_is_a_failure() {
        for code in [Some(0), Some(101), Some(134), None] {
            let mut tally = Tally::default();
            tally.ended(code);
            assert_eq!(tally.failed, 1, "{code:?}");
        }
    }
}
