//! Pictures: overlays, plots, contact sheets and HTML pages.
