import net from 'node:net';
import { bytesToHex } from '@vlcn.io/ws-common';
import WebSocket from 'ws';

/** Frames kept per network for the report of a failure. */
const TRANSCRIPT_LENGTH = 400;

const TAGS = [
  undefined,
  'AnnouncePresence',
  'Changes',
  'RejectChanges',
  'StartStreaming',
  'CreateDbOnPrimary',
  'ApplyChangesOnPrimary',
  'Ping',
  'Pong',
  'CreateDbOnPrimaryResponse',
  'Err',
  'ApplyChangesOnPrimaryResponse',
];

/**
 * One client's way to the server: its sockets, what went over them, and the switch that cuts it off.
 * A client gets its network by connecting to `network.address(url)`.
 */
export class Network {
  static #byName = new Map();

  /** Frames in order: `{ socket, from: 'client' | 'server', message, sender?, since?, count?, bytes }`. */
  transcript = [];
  /** Changes that came so far, and the bytes of the messages with them. */
  downloaded = { changes: 0, bytes: 0 };
  /** How many pings came. */
  pings = 0;
  /** How the sockets ended, in order: `{ socket, code, reason }`. */
  closes = [];
  /** What went wrong below the WebSocket: a refused upgrade, a lost connection. */
  errors = [];
  /** What the client's own event listeners threw. A browser only logs it; a test fails by it. */
  exceptions = [];

  #name;
  #sockets = new Set();
  #online = true;
  #opened = 0;
  #cutIn = Infinity;

  constructor(name) {
    this.#name = `${name}-${crypto.randomUUID()}`;
    Network.#byName.set(this.#name, this);
  }

  static named(name) {
    return Network.#byName.get(name);
  }

  /** `url` with the network's name as its fragment, which never goes over the wire. */
  address(url) {
    return `${url}#${this.#name}`;
  }

  get isOnline() {
    return this.#online;
  }

  /** How many sockets were opened so far. */
  get opened() {
    return this.#opened;
  }

  /** Ends all connections without a closing handshake, and lets no new one through. */
  goOffline() {
    this.#online = false;
    this.cut();
  }

  goOnline() {
    this.#online = true;
  }

  /** Ends all connections without a closing handshake. The client may connect again. */
  cut() {
    for (const socket of this.#sockets) socket.terminate();
  }

  /** Ends all connections once so many messages with changes have come. The client gets these, and nothing of what is behind them. */
  cutAfter(messages) {
    this.#cutIn = messages;
  }

  /** Whether the message that was just received is the last one before the cut. */
  isCutNow() {
    const now = this.#cutIn <= 0;
    if (now) this.#cutIn = Infinity;
    return now;
  }

  /** The messages of one kind that one side sent. */
  messages(from, message) {
    return this.transcript.filter((frame) => frame.from === from && frame.message === message);
  }

  describe() {
    const frames = this.transcript
      .slice(-40)
      .map(({ socket, from, message, since, count, bytes }) => {
        const detail = [since === undefined ? '' : ` since ${since}`, count === undefined ? '' : ` × ${count}`].join('');
        return `  #${socket} ${from === 'client' ? '→' : '←'} ${message}${detail} (${bytes} bytes)`;
      });
    const closes = this.closes.slice(-10).map(({ socket, code, reason }) => `  #${socket} closed ${code} ${reason}`);
    const errors = [...this.errors, ...this.exceptions].slice(-10).map((error) => `  ${error?.stack ?? error}`);
    return [...frames, ...closes, ...errors].join('\n');
  }

  add(socket) {
    const number = ++this.#opened;
    this.#sockets.add(socket);
    socket.once('close', (code, reason) => {
      this.#sockets.delete(socket);
      this.closes.push({ socket: number, code, reason: reason.toString() });
    });
    return number;
  }

  record(socket, from, data) {
    const frame = { socket, from, ...summary(data) };
    if (from === 'server' && frame.message === 'Changes') {
      this.downloaded = { changes: this.downloaded.changes + frame.count, bytes: this.downloaded.bytes + frame.bytes };
      if (frame.count > 0) this.#cutIn--;
    }
    this.transcript.push(frame);
    if (this.transcript.length > TRANSCRIPT_LENGTH) this.transcript.shift();
  }
}

/**
 * The `WebSocket` global of a browser: an exception in a listener is reported and counted, never fatal, and a connection
 * that fails only fires events. Everything else is `ws`.
 */
export class BrowserWebSocket extends WebSocket {
  #network;
  #number;
  #isCut = false;

  constructor(address, protocols) {
    const url = new URL(address);
    const network = Network.named(decodeURIComponent(url.hash.slice(1)));
    if (!network) throw new Error(`${address} names no network: connect to Network.address(url)`);
    url.hash = '';
    super(url, protocols, network.isOnline ? {} : { createConnection: unreachable });
    this.#network = network;
    this.#number = network.add(this);
    this.on('error', (error) => network.errors.push(error));
    this.on('message', (data) => network.record(this.#number, 'server', data));
    this.on('ping', () => network.pings++);
  }

  emit(event, ...given) {
    if (event !== 'message') return super.emit(event, ...given);
    // `ws` hands on what it has read already, also once it was told to end.
    if (this.#isCut) return false;
    const heard = super.emit(event, ...given);
    if (this.#network.isCutNow()) {
      this.#isCut = true;
      this.terminate();
    }
    return heard;
  }

  addEventListener(type, listener, options) {
    const guarded = (event) => {
      try {
        (listener.handleEvent ?? listener).call(this, event);
      } catch (error) {
        this.#network.exceptions.push(error);
      }
    };
    super.addEventListener(type, guarded, options);
  }

  send(data, ...rest) {
    this.#network.record(this.#number, 'client', data);
    super.send(data, ...rest);
  }
}

function unreachable() {
  const socket = new net.Socket();
  process.nextTick(() => socket.destroy(new Error('offline')));
  return socket;
}

// Decodes by hand only what a report shows: decoding a whole upload a second time would slow the client down.
function summary(data) {
  const bytes = data instanceof ArrayBuffer ? new Uint8Array(data) : data;
  const message = TAGS[bytes[0]] ?? `tag ${bytes[0]}`;
  const frame = { message, bytes: bytes.length };
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (message === 'Changes' || message === 'RejectChanges') {
    frame.sender = bytesToHex(bytes.subarray(1, 17));
    frame.since = view.getBigInt64(17);
    if (message === 'Changes') frame.count = varUint(bytes, varUint(bytes, 25).next).value;
  } else if (message === 'StartStreaming') {
    frame.since = view.getBigInt64(1);
  } else if (message === 'AnnouncePresence') {
    frame.sender = bytesToHex(bytes.subarray(1, 17));
  }
  return frame;
}

function varUint(bytes, offset) {
  let value = 0;
  let factor = 1;
  let next = offset;
  while (next < bytes.length) {
    const byte = bytes[next++];
    value += (byte & 0x7f) * factor;
    factor *= 128;
    if (byte < 0x80) break;
  }
  return { value, next };
}
