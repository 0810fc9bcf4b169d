// How Sphinx's search ranks pages (searchtools.js): what one does first, then names, and at the end how it came to be.
var Scorer = {
  score: ([page, , , , score]) =>
    score + (/^(docs\/(guide|tutorial)|README)/.test(page) ? 3 : /^(docs\/(decisions|benchmarks)|[A-Z]+$)/.test(page) ? -100 : 0),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
