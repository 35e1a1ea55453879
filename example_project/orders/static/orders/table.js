/** The live table: every open order in a Map, the newest of them on the page. */

import { clock, money, part } from "./format.js";

/** Rows on the page: more than a screen holds, few enough to draw within a frame. */
const ROWS_SHOWN = 100;
/** With more leaving rows than these nobody could follow a farewell. */
const ROWS_FADING = 12;
const FLASH_MS = 1_600;
const FADE_MS = 900;

const calm = matchMedia("(prefers-reduced-motion: reduce)");

export class Table {
  #orders = new Map();
  #customers = new Map();
  #lines = new Map();
  #shown = new WeakMap();
  #flashes = new Map();
  #seen = 0;
  #drawing = false;
  #body = document.querySelector("#rows");

  customer(id) {
    return this.#customers.get(id)?.name ?? `customer ${id}`;
  }

  order(id) {
    return this.#orders.get(id);
  }

  setCustomers(rows) {
    this.#customers = new Map(rows.map((row) => [row.id, row]));
    this.#redraw();
  }

  setOrders(rows) {
    this.#orders = new Map(rows.map((row) => [row.id, row]));
    this.#draw();
  }

  applyCustomer(event) {
    this.#seen += 1;
    if (event.kind === "delete") this.#customers.delete(event.pk);
    else if (event.data) this.#customers.set(event.pk, event.data);
    this.#redraw();
  }

  applyOrder(event) {
    this.#seen += 1;
    if (event.kind === "delete") this.#orders.delete(event.pk);
    else if (event.data) this.#orders.set(event.pk, { ...event.data, updated_at: event.at });
    this.#flashes.set(event.pk, event.kind);
    this.#draw();
  }

  /** Draw once per frame, whatever number of events came. */
  #draw() {
    if (this.#drawing) return;
    this.#drawing = true;
    // A hidden page has no frames, and its Map must not wait for one.
    const soon = document.hidden ? setTimeout : requestAnimationFrame;
    soon(() => {
      this.#drawing = false;
      this.#drawRows();
      this.#drawFigures();
      this.#flashes.clear();
    });
  }

  /** Draw each row anew: a customer's name may stand in any of them. */
  #redraw() {
    this.#shown = new WeakMap();
    this.#draw();
  }

  #drawRows() {
    const ids = [...this.#orders.keys()].sort((a, b) => b - a).slice(0, ROWS_SHOWN);
    this.#removeOthers(new Set(ids));
    let place = this.#body.firstElementChild;
    for (const id of ids) {
      while (place?.dataset.leaving !== undefined) place = place.nextElementSibling;
      const line = this.#lines.get(id) ?? this.#newLine(id);
      if (line === place) place = place.nextElementSibling;
      else this.#body.insertBefore(line, place);
      this.#fill(line, this.#orders.get(id));
      if (this.#flashes.has(id)) flash(line, this.#flashes.get(id));
    }
  }

  #removeOthers(ids) {
    const others = [...this.#lines.keys()].filter((id) => !ids.has(id));
    for (const id of others) {
      const line = this.#lines.get(id);
      this.#lines.delete(id);
      const left = this.#flashes.get(id) === "delete" && others.length <= ROWS_FADING;
      if (left && !calm.matches) fade(line);
      else line.remove();
    }
  }

  #newLine(id) {
    const line = document.createElement("tr");
    line.dataset.id = id;
    this.#lines.set(id, line);
    return line;
  }

  #fill(line, order) {
    if (this.#shown.get(line) === order) return;
    this.#shown.set(line, order);
    line.replaceChildren(
      part("td", "id", `#${order.id}`),
      this.#customerCell(order.customer_id),
      part("td", "", part("span", `chip ${order.status}`, order.status)),
      part("td", "total number", money(order.total)),
      part("td", "note wide", order.note),
      part("td", "when wide number", clock(order.updated_at)),
    );
  }

  #customerCell(id) {
    const city = this.#customers.get(id)?.city ?? "";
    return part("td", "customer", this.customer(id), part("small", "", city));
  }

  #drawFigures() {
    const orders = [...this.#orders.values()];
    // In cents, since sums of binary fractions drift.
    const cents = orders.reduce((sum, order) => sum + Math.round(order.total * 100), 0);
    show("#count", orders.length.toLocaleString("en"));
    show("#worth", money(cents / 100));
    show("#seen", this.#seen.toLocaleString("en"));
    document.querySelector("#empty").hidden = orders.length > 0;
    const more = document.querySelector("#more");
    more.hidden = orders.length <= ROWS_SHOWN;
    more.textContent = `The newest ${ROWS_SHOWN} of ${orders.length.toLocaleString("en")}.`;
  }
}

function flash(line, kind) {
  if (calm.matches) return;
  const color = `var(--flash-${kind === "insert" ? "enter" : "change"})`;
  line.animate({ backgroundColor: [color, color, "transparent"] }, FLASH_MS);
}

function fade(line) {
  line.dataset.leaving = "";
  const color = "var(--flash-leave)";
  const farewell = { backgroundColor: [color, color], opacity: [1, 1, 0] };
  line.animate(farewell, FADE_MS).onfinish = () => line.remove();
}

function show(selector, text) {
  document.querySelector(selector).textContent = text;
}
