/** The order desk: what arrives by pgnotify.js becomes rows and lines of the feed. */

import { PgNotify } from "../django_pgnotify/pgnotify.js";
import { Feed } from "./feed.js";
import { Table } from "./table.js";

const table = new Table();
const feed = new Feed(document.querySelector("#feed"), table);

const live = new PgNotify("/ws/orders/");

live.subscribe("customers", {
  snapshot: (rows) => table.setCustomers(rows),
  events(events) {
    for (const event of events) table.applyCustomer(event);
    feed.addCustomers(events);
  },
});

live.subscribe("orders", {
  subscribed({ recovered }) {
    if (recovered) tellConnection("Resumed: what was missed has been caught up on.");
  },
  snapshot: (rows) => table.setOrders(rows),
  events(events, { more }) {
    for (const event of events) {
      feed.add(event);
      table.applyOrder(event);
    }
    if (!more) feed.flush();
  },
  reset(reason) {
    tellConnection(`Too much was missed (${reason}): the desk is read anew.`);
  },
});

// The state of the connection

const connection = document.querySelector("#connection");
const connectionText = document.querySelector("#connection-text");
const STATUS_TEXTS = {
  connecting: "Connecting",
  live: "Live",
  reconnecting: "Reconnecting",
  closed: "Offline",
};
const NEWS_MS = 6_000;
let newsTimer;

function showStatus() {
  connection.dataset.status = live.status;
  connectionText.textContent = STATUS_TEXTS[live.status];
}

function tellConnection(news) {
  feed.addNews(news);
  connection.dataset.resumed = "";
  clearTimeout(newsTimer);
  newsTimer = setTimeout(() => {
    delete connection.dataset.resumed;
    showStatus();
  }, NEWS_MS);
}

live.on("status", () => {
  showStatus();
  if (live.status === "live" && "resumed" in connection.dataset) {
    connectionText.textContent = "Live, resumed";
  }
});

const line = document.querySelector("#line");
line.addEventListener("click", () => {
  if (live.status === "closed") live.open();
  else live.close();
  line.textContent = live.status === "closed" ? "Go online" : "Go offline";
});

// The buttons

const said = document.querySelector("#said");

async function write(button) {
  // Not `disabled`, which would take the focus away from who works by keyboard.
  if (button.ariaBusy === "true") return;
  button.ariaBusy = "true";
  try {
    const response = await fetch(button.dataset.url, {
      method: "POST",
      headers: { "X-CSRFToken": cookie("csrftoken") },
    });
    if (!response.ok) throw new Error(`the server answered ${response.status}`);
    said.textContent = (await response.json()).said;
    delete said.dataset.failed;
  } catch (error) {
    said.textContent = `That did not work: ${error.message}.`;
    said.dataset.failed = "";
  }
  button.ariaBusy = "false";
}

function cookie(name) {
  return document.cookie.match(new RegExp(`(?:^|; )${name}=([^;]*)`))?.[1] ?? "";
}

for (const button of document.querySelectorAll("[data-url]")) {
  button.addEventListener("click", () => write(button));
}
