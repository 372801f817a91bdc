//! Exit codes that scripts rely on: the one table. Help prints it, and `docs/ARCHITECTURE.md` holds the same.

/// What a process says with its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitCode {
    /// The number.
    pub code: u8,
    /// What it says, as help and documents print it.
    pub meaning: &'static str,
}

/// Every exit code of both programs, in order.
pub const EXIT_CODES: &[ExitCode] = &[
    of(0, "done"),
    of(
        1,
        "failed: a bug, or a fault nobody classified; a run that lost its workers again and again",
    ),
    of(
        2,
        "bad arguments, settings or input; an output that is taken",
    ),
    of(3, "data damaged: a cut, flipped or missing part"),
    of(
        4,
        "cannot be reached, or does not take what is written (no network, no space, no right): \
         a store, a coordinator, a file, standard output",
    ),
    of(5, "fenced: a newer worker owns the run"),
    of(
        6,
        "stopped by Ctrl-C or SIGTERM before its end; nothing is wrong, and the same command goes on \
         (`lavida-dataset build` with `--resume`)",
    ),
    of(
        7,
        "training has diverged: a loss or a gradient is no finite number; the same command again ends the same",
    ),
    of(
        130,
        "a second Ctrl-C or SIGTERM while the first was being obeyed",
    ),
];

const fn of(code: u8, meaning: &'static str) -> ExitCode {
    ExitCode { code, meaning }
}
