import WebSocket from 'ws';
import { until } from './convergence.js';

/** A WebSocket without a client behind it, to say to the server what no client would. */
export class RawSocket {
  /** What the server sent, in order: bytes for binary frames, strings for text frames. */
  received = [];
  /** How the connection ended: `{ code, reason }`, or undefined while it lasts. */
  closed;

  #socket;
  #taken = 0;

  constructor(socket) {
    this.#socket = socket;
    socket.on('message', (data, isBinary) => this.received.push(isBinary ? new Uint8Array(data) : data.toString()));
    socket.on('close', (code, reason) => (this.closed = { code, reason: reason.toString() }));
    socket.on('error', () => {});
  }

  static async open({ url, room, token }) {
    const socket = new WebSocket(url, [subprotocol(room, token)]);
    const raw = new RawSocket(socket);
    await until('the socket to open', () => {
      if (raw.closed) throw new Error('the connection was refused');
      return socket.readyState === WebSocket.OPEN;
    });
    return raw;
  }

  /** Sends a text frame for a string and a binary frame for bytes. */
  send(data) {
    this.#socket.send(data);
  }

  /** The next frame that was not taken yet. */
  async next() {
    return until('a frame', () => {
      if (this.#taken < this.received.length) return { frame: this.received[this.#taken++] };
      if (this.closed) throw new Error(`closed with ${this.closed.code} ${this.closed.reason}`);
      return undefined;
    }).then(({ frame }) => frame);
  }

  async ended() {
    return until('the close', () => this.closed);
  }

  terminate() {
    this.#socket.terminate();
  }
}

/** The status and text with which the server answers an upgrade that it refuses; 101 if it does not. */
export async function upgradeAnswer({ url, room, token }) {
  const socket = new WebSocket(url, [subprotocol(room, token)]);
  return new Promise((resolve, reject) => {
    socket.on('open', () => {
      socket.terminate();
      resolve({ status: 101, text: '' });
    });
    socket.on('unexpected-response', (request, response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (chunk) => (text += chunk));
      response.on('end', () => {
        request.destroy();
        resolve({ status: response.statusCode, text });
      });
    });
    socket.on('error', reject);
  });
}

// As ws-client writes it.
function subprotocol(room, token) {
  return btoa(`${token === undefined ? '' : `auth=${token},`}room=${room}`).replaceAll('=', '');
}
