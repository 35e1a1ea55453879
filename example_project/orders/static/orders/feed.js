/** The feed: a line for each event, or one for many of a kind, with who did it. */

import { clock, money, part } from "./format.js";

const LINES_KEPT = 60;
/** From this number on, like events of one batch share a line. */
const MANY = 4;
const SIGNS = { insert: "+", update: "~", delete: "−", truncate: "×" };
const NO_CONTEXT = "plain SQL";

export class Feed {
  #list;
  #table;
  #batch = [];

  constructor(list, table) {
    this.#list = list;
    this.#table = table;
  }

  /** Take an event of an order, before the table does: the line tells what was before. */
  add(event) {
    this.#batch.push({ event, before: this.#table.order(event.pk) ?? {} });
  }

  /** The batch is whole: write its lines. */
  flush() {
    for (const alike of runs(this.#batch)) {
      if (alike.length >= MANY) this.#write(alike.at(-1).event, summary(alike));
      else for (const one of alike) this.#write(one.event, describe(one, this.#table));
    }
    this.#batch = [];
  }

  addCustomers(events) {
    for (const event of events) {
      const name = event.data?.name ?? `customer ${event.pk}`;
      this.#write(event, `${name}: customer ${PAST[event.kind]}`);
    }
  }

  /** Write a line about the connection itself. */
  addNews(text) {
    this.#prepend("connection-news", "↻", text, clock(Date.now()));
  }

  #write(event, what) {
    const who = event.context?.user ?? NO_CONTEXT;
    this.#prepend(event.kind, SIGNS[event.kind], what, `${who}, ${clock(event.at)}`);
  }

  #prepend(kind, sign, what, who) {
    const line = part(
      "li", kind, part("span", "sign", sign), part("span", "what", what), part("span", "who", who),
    );
    line.querySelector(".sign").ariaHidden = "true";
    this.#list.prepend(line);
    while (this.#list.childElementCount > LINES_KEPT) this.#list.lastElementChild.remove();
  }
}

const PAST = { insert: "added", update: "changed", delete: "deleted" };

function describe({ event, before }, table) {
  const { data } = event;
  const number = `#${event.pk}`;
  if (!data) return `${number} ${PAST[event.kind] ?? event.kind}`;
  const customer = table.customer(data.customer_id);
  if (event.kind === "insert" && event.moved) return `${number} back on the desk`;
  if (event.kind === "insert") return `${number} ordered by ${customer}, ${money(data.total)}`;
  if (event.kind === "delete") return `${number} ${event.moved ? "left the desk" : "deleted"}`;
  return `${number} ${changes(event, before, table).join(", ")}`;
}

function changes({ changed, data }, before, table) {
  const tell = {
    status: () => `${before.status ?? "?"} → ${data.status}`,
    total: () => `${money(before.total ?? 0)} → ${money(data.total)}`,
    note: () => (data.note ? `note “${data.note}”` : "note removed"),
    customer_id: () => `now of ${table.customer(data.customer_id)}`,
  };
  return changed.filter((field) => field in tell).map((field) => tell[field]());
}

/** Cut a batch into runs of one kind by one user. */
function runs(batch) {
  const key = ({ event }) => `${event.kind} ${event.moved} ${event.context?.user}`;
  const found = [];
  for (const one of batch) {
    if (found.length > 0 && key(found.at(-1)[0]) === key(one)) found.at(-1).push(one);
    else found.push([one]);
  }
  return found;
}

function summary(alike) {
  const { kind, moved } = alike[0].event;
  const left = kind === "delete" && moved;
  return `${alike.length.toLocaleString("en")} orders ${left ? "left the desk" : PAST[kind]}`;
}
