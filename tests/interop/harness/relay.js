import { once } from 'node:events';
import net from 'node:net';
import { setTimeout as elapsed } from 'node:timers/promises';

/** How often in a second a link of limited speed takes bytes. */
const TICKS = 50;
const END_OF_HEAD = '\r\n\r\n';

/** A link to a server, as fast as one likes, that sees the bytes which go over it. */
export class Relay {
  /** The frames of the server, as they are on the wire: `{ opcode, final, bytes }`. */
  frames = [];
  /** Bytes from clients that have arrived at the server. */
  uploaded = 0;

  #server;
  #base;
  #bytesPerSecond;
  #sockets = new Set();

  constructor(url, bytesPerSecond) {
    this.#base = new URL(url);
    this.#bytesPerSecond = bytesPerSecond;
    this.#server = net.createServer({ allowHalfOpen: true }, (client) => this.#join(client));
  }

  /** A relay to the server at `url`, on a free port. `bytesPerSecond`: what it takes from clients. */
  static async open(url, { bytesPerSecond = Infinity } = {}) {
    const relay = new Relay(url, bytesPerSecond);
    relay.#server.listen(0, '127.0.0.1');
    await once(relay.#server, 'listening');
    return relay;
  }

  /** Where clients connect to instead. */
  get url() {
    const url = new URL(this.#base);
    url.port = this.#server.address().port;
    return url.href;
  }

  close() {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
  }

  #join(client) {
    const server = net.connect({ host: this.#base.hostname, port: Number(this.#base.port), allowHalfOpen: true });
    for (const socket of [client, server]) {
      this.#sockets.add(socket);
      socket.once('close', () => this.#sockets.delete(socket));
      socket.on('error', () => {});
    }
    const headers = new FrameHeaders(this.frames);
    const counted = (chunk) => (this.uploaded += chunk.length);
    const up = carry(client, server, { bytesPerSecond: this.#bytesPerSecond, carried: counted });
    const down = carry(server, client, { carried: (chunk) => headers.push(chunk) });
    // What breaks one half breaks the other.
    for (const half of [up, down]) {
      half.catch(() => {
        client.destroy();
        server.destroy();
      });
    }
  }
}

/** Carries what comes from one socket to the other, and no more of it than the other takes. */
async function carry(from, to, { bytesPerSecond = Infinity, carried }) {
  const most = bytesPerSecond / TICKS;
  let free = performance.now();
  for await (const chunk of from) {
    for (let start = 0; start < chunk.length; start += most) {
      const part = chunk.subarray(start, start + most);
      if (!to.write(part)) await once(to, 'drain');
      carried(part);
      free = Math.max(free, performance.now() - 1000 / TICKS) + (part.length / bytesPerSecond) * 1000;
      const wait = free - performance.now();
      if (wait > 0) await elapsed(wait);
    }
  }
  to.end();
}

/** Finds the headers of frames (RFC 6455 §5.2) in what a server sends, behind the head of its response. */
class FrameHeaders {
  #frames;
  #head = '';
  #header = [];
  /** Bytes of payload before the next header. */
  #payload = 0;

  constructor(frames) {
    this.#frames = frames;
  }

  push(chunk) {
    let at = 0;
    while (at < chunk.length) {
      if (!this.#head.endsWith(END_OF_HEAD)) {
        this.#head += String.fromCharCode(chunk[at++]);
      } else if (this.#payload > 0) {
        const length = Math.min(this.#payload, chunk.length - at);
        this.#payload -= length;
        at += length;
      } else {
        this.#header.push(chunk[at++]);
        this.#end();
      }
    }
  }

  #end() {
    const [first, second] = this.#header;
    const extended = { 126: 2, 127: 8 }[second] ?? 0;
    if (this.#header.length < 2 + extended) return;
    const bytes = extended === 0 ? second : Buffer.from(this.#header).readUIntBE(extended === 8 ? 4 : 2, extended === 8 ? 6 : 2);
    this.#frames.push({ opcode: first & 0x0f, final: (first & 0x80) !== 0, bytes });
    this.#header = [];
    this.#payload = bytes;
  }
}
