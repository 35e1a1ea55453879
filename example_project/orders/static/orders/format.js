/** How values look on the page, and how its elements are made. */

const EURO = new Intl.NumberFormat("en", { style: "currency", currency: "EUR" });

/** An amount, given as the text of a decimal or as a number. */
export function money(amount) {
  return EURO.format(amount);
}

/** The time of day of an ISO 8601 text. */
export function clock(text) {
  return new Date(text).toLocaleTimeString("en-GB");
}

/** An element with a class and children; texts are taken as text, never as HTML. */
export function part(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}
