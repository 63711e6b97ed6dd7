// Tables that scroll sideways can be reached by keyboard, and are named for screen readers.
function mark() {
  for (const box of document.querySelectorAll(".md-typeset__scrollwrap")) {
    if (box.scrollWidth > box.clientWidth) {
      box.tabIndex = 0
      box.setAttribute("role", "group")
      box.setAttribute("aria-label", "table, scrolls sideways")
    } else {
      for (const name of ["tabindex", "role", "aria-label"]) box.removeAttribute(name)
    }
  }
}

// The theme puts tables into their boxes after the page is loaded.
new MutationObserver(mark).observe(document.body, { childList: true, subtree: true })
addEventListener("resize", mark)
addEventListener("load", mark)
