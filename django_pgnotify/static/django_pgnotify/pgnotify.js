/**
 * The browser's end of the journey: one socket, any number of groups, nothing missed and
 * nothing seen twice. A page that has imported `PgNotify` from here writes:
 *
 *     const feed = new PgNotify("/ws/orders/");
 *     feed.on("status", (status) => console.log(status));
 *     const orders = feed.subscribe("orders", {
 *       snapshot(rows) { ... },                 // the state to begin with, if the server gives one
 *       events(events, { position, more }) { ... },
 *       reset(reason) { ... },                  // some events are gone: read your state again
 *     });
 *
 * It reconnects by itself, and resumes each group from the position it had reached.
 */

/** @typedef {"connecting" | "live" | "reconnecting" | "closed"} Status */

/**
 * One thing that happened on the server.
 * @typedef {Object} PgEvent
 * @property {string} id Unique, and the same in every replay.
 * @property {string} topic The trigger's name, or the topic given to `notify()`.
 * @property {"insert" | "update" | "delete" | "truncate" | "message"} kind
 * @property {?string} model For instance "shop.order"; null for messages.
 * @property {*} pk The row's primary key; a list if it is composite.
 * @property {*} [data] The declared fields; absent if `truncated`.
 * @property {string[]} changed For updates, the declared fields that differ.
 * @property {string} at When it was written: ISO 8601, UTC.
 * @property {Object} [context] The declared keys of `event_context`.
 * @property {boolean} [moved] The row came from, or went to, another group.
 * @property {boolean} [truncated] Too large to carry its data: read the row.
 */

/**
 * @typedef {Object} Handlers All are optional; one that throws disturbs nobody.
 * @property {(info: {recovered: ?boolean, position: string}) => void} [subscribed]
 *   The group is live. `recovered` is true after a gapless resume, false if a reset
 *   follows, null for a first subscription.
 * @property {(rows: Object[], info: {position: string}) => void} [snapshot]
 *   All rows, as they were where the events go on: show these and no others. For consumers
 *   with a `snapshot()` only; it comes at first and after each reset.
 * @property {(events: PgEvent[], info: {position: string, more: boolean}) => void} [events]
 *   `more` says that the batch goes on at once: a transaction, in a replay many. Its last call
 *   says that it does not, and may have no events.
 * @property {(reason: string, info: {position: string}) => void} [reset]
 *   Events are missing: read your state again, unless you take snapshots, of which one
 *   follows. After a "gap" with the position of before only live events are missing;
 *   "revoked" ended the subscription.
 * @property {(error: {code: string, message: string}) => void} [error]
 *   The server refused the group; the subscription has ended.
 */

/** Milliseconds; any of them can be given as an option of `new PgNotify(url, options)`. */
const TIMING = {
  /** Before the first attempt to reconnect; doubled, with jitter, for each further one. */
  reconnectMin: 250,
  /** The longest wait between two attempts. */
  reconnectMax: 30_000,
  /** A connection that lived this long was a good one: the wait begins small again. */
  stable: 5_000,
  /** The handshake may take this long: a frozen server accepts and says nothing. */
  open: 10_000,
  /** After this silence the server is asked whether it lives... */
  silence: 25_000,
  /** ...and has this long to say anything at all. */
  answer: 10_000,
  /** That time doubles up to this while it does not do, as on a line slower than a frame. */
  answerMax: 300_000,
};

/**
 * Event ids kept per group. In the middle of a batch all of its ids matter, since a resume
 * repeats the batch; once the position has moved on, only a few stragglers do.
 */
const IDS_AFTER_BATCH = 5_000;

/** Errors of a group that answer no `subscribe`. */
const NO_REFUSALS = ["unknown_group", "too_large"];

/** A connection to one consumer. It opens at once, and stays until `close()`. */
export class PgNotify {
  #url;
  #timing;
  #socket = null;
  #subscriptions = new Map();
  /** Groups that were asked for on this socket: answers to that may still be on their way. */
  #asked = new Set();
  #listeners = { status: new Set(), error: new Set() };
  /** What listeners are to hear; the first is being told. */
  #news = [];
  #status = "closed";
  #attempts = 0;
  #openedAt = Infinity;
  /** True while the server is to prove by any frame that it lives. */
  #isAsking = false;
  /** When the pings were sent whose pongs have not come. */
  #pings = [];
  /** Connections given up for their silence since a pong came in time. */
  #silences = 0;
  #timer = undefined;
  #wake = () => this.#awaken();

  /**
   * @param {string | URL} url Of the consumer; a relative one belongs to this page's host.
   * @param {Partial<typeof TIMING>} [options]
   */
  constructor(url, options = {}) {
    this.#url = socketUrl(url);
    this.#timing = { ...TIMING, ...options };
    this.open();
  }

  /**
   * @returns {Status} "live" once all that the page follows has been answered on this
   *   connection. It stays so when another group is asked for: its `subscribed` tells of that.
   */
  get status() {
    return this.#status;
  }

  /**
   * Follow a group, from now or from a stored position. Throws if it is followed already.
   * @param {string} group
   * @param {Handlers} [handlers]
   * @param {{since?: ?string}} [options]
   * @returns {Subscription}
   */
  subscribe(group, handlers = {}, { since } = {}) {
    // The server could not say which subscription it refuses.
    if (typeof group !== "string") throw new TypeError(`a group is a string, not ${group}`);
    const known = this.#subscriptions.get(group);
    // One that has ended is told so before it is taken out.
    if (known && !known.ended) throw new Error(`already subscribed to ${group}`);
    const ask = () => this.#ask(subscription);
    const quit = () => this.#quit(group);
    const leave = () => this.#forget(group);
    const subscription = new Subscription(group, handlers, since, { ask, quit, leave });
    this.#subscriptions.set(group, subscription);
    ask();
    this.#settle();
    return subscription;
  }

  /**
   * Listen to "status" (status, {attempt, delay}) or "error" ({code, message, group}).
   * @param {"status" | "error"} name
   * @param {Function} listener
   * @returns {() => void} Stops listening.
   */
  on(name, listener) {
    this.#listeners[name].add(listener);
    return () => this.#listeners[name].delete(listener);
  }

  /** Connect again after `close()`; each group resumes from its position. */
  open() {
    if (this.#status !== "closed") return;
    this.#attempts = 0;
    this.#setStatus("connecting");
    // A listener may have closed us, and even opened us again.
    if (this.#status === "closed" || this.#socket !== null) return;
    for (const [target, name] of wakers()) target.addEventListener(name, this.#wake);
    try {
      this.#connect();
    } catch (problem) {
      this.close();
      throw problem;
    }
  }

  /** Disconnect and stay so. Subscriptions keep their positions for `open()`. */
  close() {
    for (const [target, name] of wakers()) target.removeEventListener(name, this.#wake);
    this.#drop();
    this.#setStatus("closed");
  }

  #connect() {
    const socket = new WebSocket(this.#url);
    this.#socket = socket;
    // A socket that was given up may still speak: only the present one is heard.
    const present = (handler) => (event) => socket === this.#socket && handler(event);
    socket.onopen = present(() => this.#opened());
    socket.onmessage = present((event) => this.#heard(event.data));
    socket.onclose = present(() => this.#lost());
    this.#after(this.#timing.open, () => this.#lost());
  }

  #connectAgain() {
    try {
      this.#connect();
    } catch (problem) {
      // A browser may refuse for a while what it took before, by a policy for instance.
      reportError(problem);
      this.#lost();
    }
  }

  #opened() {
    this.#openedAt = Date.now();
    for (const subscription of this.#subscriptions.values()) this.#ask(subscription);
    this.#expectFrames();
    this.#settle();
  }

  #heard(text) {
    this.#expectFrames();
    const frame = parse(text);
    if (frame === null) {
      this.#emit("error", { code: "bad_frame", message: "the server sent no frame" });
    } else if (frame.type === "ping") {
      this.#send({ type: "pong" });
    } else if (frame.type === "pong") {
      this.#heardPong();
    } else {
      this.#subscriptions.get(frame.group)?.receive(frame);
      if (frame.type === "error") this.#emit("error", frame);
      this.#removeEnded(frame.group);
      this.#settle();
    }
  }

  /** Only this tells that the line is quick: the begin of what is too slow comes in time too. */
  #heardPong() {
    if (Date.now() - this.#pings.shift() <= this.#timing.answer) this.#silences = 0;
  }

  #lost() {
    if (Date.now() - this.#openedAt >= this.#timing.stable) this.#attempts = 0;
    this.#drop();
    const { reconnectMin, reconnectMax } = this.#timing;
    const delay = backoff(this.#attempts++, reconnectMin, reconnectMax);
    this.#after(delay, () => this.#connectAgain());
    this.#setStatus("reconnecting", { attempt: this.#attempts, delay });
  }

  #drop() {
    const socket = this.#socket;
    this.#socket = null;
    this.#openedAt = Infinity;
    this.#isAsking = false;
    this.#pings = [];
    this.#asked.clear();
    clearTimeout(this.#timer);
    for (const subscription of this.#subscriptions.values()) subscription.pause();
    socket?.close();
  }

  /** The page is seen again, or the network is back: do not wait for any timer. */
  #awaken() {
    if (globalThis.document?.visibilityState === "hidden") return;
    if (this.#isOpen()) this.#askForLife();
    else if (this.#socket === null) {
      clearTimeout(this.#timer);
      this.#connectAgain();
    }
  }

  #expectFrames() {
    this.#isAsking = false;
    this.#after(this.#timing.silence, () => this.#askForLife());
  }

  #askForLife() {
    // Who is asked already gets no more time for it.
    if (this.#isAsking) return;
    this.#isAsking = true;
    this.#pings.push(Date.now());
    this.#send({ type: "ping" });
    this.#after(this.#patience(), () => this.#lostBySilence());
  }

  #patience() {
    const { answer, answerMax } = this.#timing;
    return Math.max(answer, Math.min(answerMax, answer * 2 ** this.#silences));
  }

  #lostBySilence() {
    this.#silences += 1;
    this.#lost();
  }

  /** There is one timer: each of its uses ends the one before. */
  #after(milliseconds, action) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(action, milliseconds);
  }

  #ask(subscription) {
    if (!this.#isOpen()) return;
    this.#send(subscription.request(this.#asked.has(subscription.group)));
    this.#asked.add(subscription.group);
  }

  #quit(group) {
    if (this.#isOpen()) this.#send({ type: "unsubscribe", group });
  }

  #forget(group) {
    if (!this.#subscriptions.delete(group)) return;
    this.#quit(group);
    this.#settle();
  }

  #removeEnded(group) {
    if (this.#subscriptions.get(group)?.ended) this.#subscriptions.delete(group);
  }

  #settle() {
    const waiting = [...this.#subscriptions.values()].some((one) => !one.live);
    if (this.#isOpen() && !waiting) this.#setStatus("live");
  }

  #setStatus(status, info = {}) {
    if (status === this.#status && status !== "reconnecting") return;
    this.#status = status;
    this.#emit("status", status, info);
  }

  /** What happens while listeners are told comes after that, for each of them. */
  #emit(...news) {
    if (this.#news.push(news) > 1) return;
    for (; this.#news.length > 0; this.#news.shift()) {
      const [name, ...values] = this.#news[0];
      for (const listener of this.#listeners[name]) guarded(() => listener(...values));
    }
  }

  #isOpen() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  #send(frame) {
    this.#socket.send(JSON.stringify(frame));
  }
}

/** One followed group; made by `feed.subscribe()`. */
class Subscription {
  #handlers;
  #feed;
  #position;
  /** False while the page lacks the state that events change: then no position is of use. */
  #whole;
  #rows = [];
  #seen = new Set();
  /** The position of before the batch that we are in. */
  #batch = null;
  /** True if the page was told that a batch goes on. */
  #toldMore = false;
  /** True if we asked with `since`. */
  #resumes = false;
  /** True if the group was asked for before on this socket. */
  #isAgain = false;
  /** True if the page was told that we are subscribed, since we were not the last time. */
  #isTold = false;
  /** True between a `subscribed` that is no resume and the reset that belongs to it. */
  #awaitsReset = false;

  constructor(group, handlers, since, feed) {
    this.group = group;
    this.live = false;
    this.ended = false;
    this.#handlers = handlers;
    this.#feed = feed;
    this.#position = since ?? null;
    this.#whole = this.#position !== null || handlers.snapshot === undefined;
  }

  /**
   * Where this subscription stands: kept, it lets another page go on from here.
   * @returns {?string}
   */
  get position() {
    return this.#whole ? this.#position : null;
  }

  /** Stop following the group. */
  unsubscribe() {
    if (this.ended) return;
    this.#end();
    this.#feed.leave();
  }

  /** The connection is gone; the position stays. */
  pause() {
    this.live = this.#isTold = false;
  }

  /** The frame that asks the server for this group. */
  request(isAgain) {
    const since = this.position;
    this.#rows = [];
    this.#isAgain = isAgain;
    this.#resumes = since !== null;
    return { type: "subscribe", group: this.group, ...(this.#resumes ? { since } : {}) };
  }

  /** Take a frame of this group. */
  receive(frame) {
    if (this.ended) return;
    if (frame.type === "subscribed") this.#takeSubscribed(frame);
    else if (frame.type === "error") this.#takeError(frame);
    // Before its `subscribed`, all belongs to an earlier subscription of this group.
    else if (this.live) this.#take(frame);
  }

  #takeSubscribed(frame) {
    if (!this.#isAnswer(frame)) return;
    if (this.live && this.#mayHaveMissed(frame)) return this.#askSinceHere();
    this.live = true;
    this.#awaitsReset = frame.recovered === false;
    if (!this.#resumes) this.#begin();
    // What the reset tells of is not behind us before it has come.
    const info = this.#awaitsReset ? this.#info(frame) : this.#move(frame);
    if (this.#isTold) return;
    this.#isTold = true;
    this.#tell("subscribed", { ...info, recovered: frame.recovered ?? null });
  }

  /**
   * The answer says `recovered` if we asked with `since`. Any other one belongs to an earlier
   * subscription, or the server has put us into the group by itself.
   */
  #isAnswer(frame) {
    const isResume = typeof frame.recovered === "boolean";
    return isResume === this.#resumes || (isResume && !this.#isAgain);
  }

  #begin() {
    this.#rows = [];
    this.#whole = this.#handlers.snapshot === undefined;
  }

  /** The `subscribed` that we took for ours may have been that of an earlier subscription. */
  #mayHaveMissed(frame) {
    return this.#isAgain && this.position !== null && frame.position !== this.#position;
  }

  #askSinceHere() {
    this.live = false;
    this.#feed.ask();
  }

  #take(frame) {
    const before = this.#position;
    const info = this.#move(frame);
    switch (frame.type) {
      case "snapshot":
        return Array.isArray(frame.data) && this.#takeRows(frame.data, info);
      case "events":
        return Array.isArray(frame.events) && this.#takeEvents(frame.events, info);
      case "reset":
        return this.#takeReset(frame.reason, info, before);
    }
  }

  /** A frame's position is where we stand after it, within a batch that of before it. */
  #move(frame) {
    if (typeof frame.position === "string") this.#position = frame.position;
    return this.#info(frame);
  }

  #info(frame) {
    return { position: this.#position, more: frame.more === true };
  }

  /** A snapshot comes in one frame or several; the page gets it whole. */
  #takeRows(rows, info) {
    this.#rows = this.#rows.concat(rows);
    this.#whole = !info.more;
    if (info.more) return;
    const all = this.#rows;
    this.#rows = [];
    this.#awaitsReset = false;
    this.#tell("snapshot", all, info);
  }

  #takeEvents(events, info) {
    const fresh = events.filter((event) => isObject(event) && this.#isNew(event.id));
    // Live events may come between the frames of a batch, with the position of before it.
    const more = info.more || (this.#batch !== null && info.position === this.#batch);
    this.#batch = more ? info.position : null;
    if (!more) this.#forgetOldest();
    // A snapshot comes before all events: there was none to come.
    if (!info.more) this.#whole = true;
    // A batch that was begun has an end, even if nothing is new in its last frame.
    if (fresh.length === 0 && (more || !this.#toldMore)) return;
    this.#toldMore = more;
    this.#tell("events", fresh, { ...info, more });
  }

  #isNew(id) {
    const before = this.#seen.size;
    return this.#seen.add(id).size > before;
  }

  #forgetOldest() {
    // A set goes through its members oldest first.
    for (const id of this.#seen) {
      if (this.#seen.size <= IDS_AFTER_BATCH) return;
      this.#seen.delete(id);
    }
  }

  #takeReset(reason, info, before) {
    const isExpected = this.#awaitsReset;
    this.#awaitsReset = false;
    // Live events that were dropped leave the state as right as it was, and us where we stood.
    const isStale = reason !== "gap" || info.position !== before;
    if (isStale) this.#endBatch();
    // In another history an id is another event's.
    if (reason === "epoch" || reason === "unknown") this.#seen.clear();
    if (reason === "revoked") this.#end();
    this.#tell("reset", reason, info);
    if (!isStale || this.ended || this.#handlers.snapshot === undefined) return;
    this.#whole = false;
    // The snapshot comes by itself after a reset that is the answer to what we asked.
    if (!isExpected) this.#askAnew();
  }

  #endBatch() {
    this.#batch = null;
    this.#toldMore = false;
  }

  /** Subscribe as for the first time, since that brings a snapshot. */
  #askAnew() {
    this.live = this.#isTold = false;
    this.#feed.quit();
    this.#feed.ask();
  }

  #takeError({ code, message }) {
    // The server may have joined a group by itself, and take us out of it when it asks again.
    const isRefusal = code === "forbidden" || !(this.live || NO_REFUSALS.includes(code));
    if (!isRefusal) return;
    this.#end();
    this.#tell("error", { code, message });
  }

  #tell(name, ...values) {
    guarded(() => this.#handlers[name]?.(...values));
  }

  #end() {
    this.live = false;
    this.ended = true;
  }
}

/** The exponential wait before attempt `n` (from 0), of which the last half is by chance. */
function backoff(n, min, max) {
  const longest = Math.min(max, min * 2 ** n);
  return longest * (0.5 + Math.random() / 2);
}

function socketUrl(url) {
  const absolute = new URL(url, globalThis.location?.href);
  absolute.protocol = absolute.protocol.replace(/^http/, "ws");
  return absolute.href;
}

/** The events after which a sleeping connection is looked at again. */
function wakers() {
  const pairs = [[globalThis, "online"], [globalThis, "pageshow"]];
  return globalThis.document ? [...pairs, [document, "visibilitychange"]] : pairs;
}

function parse(text) {
  try {
    const frame = JSON.parse(text);
    return isObject(frame) && typeof frame.type === "string" ? frame : null;
  } catch {
    return null;
  }
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** A handler of the page must not break the connection: its error goes to the console. */
function guarded(action) {
  try {
    action();
  } catch (problem) {
    reportError(problem);
  }
}
