/** `/metrics` over TCP, for a Prometheus that cannot use the daemon's socket: this machine only, nothing else served. */
import { createServer } from 'node:http';
import { BangerError, messageOf } from '../errors.ts';
import { refusalOfBrowser } from './browsers.ts';
import type { Metrics } from './metrics.ts';

const LOOPBACK = '127.0.0.1';

/** Names a browser or scraper of this machine calls it by; a page from elsewhere cannot use a name of its own. */
const OWN_NAMES = new Set([LOOPBACK, 'localhost']);

/** Nobody scrapes over many connections at once. */
const MAX_CONNECTIONS = 16;

/**
 * Listens on 127.0.0.1.
 * @throws BangerError `conflict` when the port is taken
 */
export async function listenForScrapes(port: number, metrics: Pick<Metrics, 'scrape'>): Promise<AsyncDisposable> {
  const server = createServer((request, response) => {
    const ourName = OWN_NAMES.has((request.headers.host ?? '').replace(/:\d+$/, ''));
    if (!ourName || refusalOfBrowser(request.headers)) return void response.writeHead(421).end();
    if (request.url !== '/metrics') return void response.writeHead(404).end();
    if (request.method !== 'GET') return void response.writeHead(405).end();
    metrics.scrape().then(
      (text) => response.writeHead(200, { 'Content-Type': 'text/plain; version=0.0.4; charset=utf-8' }).end(text),
      (error) => response.writeHead(500).end(`${messageOf(error)}\n`),
    );
  });
  server.maxConnections = MAX_CONNECTIONS;
  await new Promise<void>((resolve, reject) => {
    // on, not once: a connection that cannot be accepted later is an error too, and no reason to end
    server.on('error', reject);
    server.listen(port, LOOPBACK, resolve);
  }).catch((error) => {
    throw new BangerError('conflict', `Metrics cannot be served on ${LOOPBACK}:${port}: ${messageOf(error)}`, {
      cause: error,
      hint: 'Choose another port with metrics.port, or turn metrics.listen off.',
    });
  });
  return {
    async [Symbol.asyncDispose]() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeAllConnections();
      await closed;
    },
  };
}
