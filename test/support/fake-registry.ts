/** A registry that serves OCI layouts and misbehaves as it is told to, and one of Debian's that asks who is there. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { createHash, createPrivateKey, sign } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, readFile, stat, writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { freePort } from './free-port.ts';

/** Returns true for what it has answered itself. */
export type Misbehaviour = (request: IncomingMessage, response: ServerResponse) => boolean | Promise<boolean>;

export interface FakeRegistry {
  /** host and port, as references have it */
  name: string;
  /** method and path of every request, in order */
  requests: string[];
  misbehave(how: Misbehaviour | undefined): void;
  /** Puts a document in the place of a tag's manifest. */
  tag(name: string, document: string, mediaType: string): void;
}

const MANIFEST = 'application/vnd.oci.image.manifest.v1+json';

/**
 * @param layout OCI layout whose only image is there as `app:latest`
 * @param tls has it speak TLS
 */
export async function fakeRegistry(t: TestContext, layout: string, tls?: Certificate): Promise<FakeRegistry> {
  let how: Misbehaviour | undefined;
  const requests: string[] = [];
  const index = JSON.parse(await readFile(join(layout, 'index.json'), 'utf8'));
  const digest: string = index.manifests[0].digest;
  const tags = new Map<string, { document: string; mediaType: string }>();
  const answer = async (request: IncomingMessage, response: ServerResponse) => {
    requests.push(`${request.method} ${request.url}`);
    if (await how?.(request, response)) return;
    if (request.url === '/v2/') return void response.end('{}');
    const [, kind, reference = ''] = /^\/v2\/app\/(manifests|blobs)\/(.+)$/.exec(request.url ?? '') ?? [];
    const tagged = tags.get(reference);
    if (tagged) return sendDocument(request, response, Buffer.from(tagged.document), tagged.mediaType);
    const blob = join(layout, 'blobs/sha256', (reference === 'latest' ? digest : reference).slice(7));
    if (kind === undefined || !(await stat(blob).catch(() => undefined))) {
      return void response.writeHead(404, { 'content-type': 'application/json' }).end(unknown(kind));
    }
    if (kind === 'manifests') return sendDocument(request, response, await readFile(blob), MANIFEST);
    response.setHeader('content-length', (await stat(blob)).size);
    if (request.method === 'HEAD') return void response.end();
    createReadStream(blob).pipe(response);
  };
  const listener = (request: IncomingMessage, response: ServerResponse) =>
    void answer(request, response).catch(() => response.destroy());
  const server = tls ? createTlsServer(tls, listener) : createServer(listener);
  const name = await listening(t, server);
  return {
    ...{ name, requests },
    misbehave: (other) => {
      how = other;
    },
    tag: (reference, document, mediaType) => void tags.set(reference, { document, mediaType }),
  };
}

function unknown(kind: string | undefined): string {
  return JSON.stringify({
    errors: [{ code: kind === 'blobs' ? 'BLOB_UNKNOWN' : 'MANIFEST_UNKNOWN', message: 'manifest unknown' }],
  });
}

function sendDocument(request: IncomingMessage, response: ServerResponse, bytes: Buffer, mediaType: string): void {
  const digest = `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
  response.writeHead(200, {
    'content-type': mediaType,
    'content-length': bytes.length,
    'docker-content-digest': digest,
  });
  response.end(request.method === 'HEAD' ? undefined : bytes);
}

async function listening(t: TestContext, server: Server): Promise<string> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return `127.0.0.1:${(server.address() as AddressInfo).port}`;
}

export interface Certificate {
  key: string;
  cert: string;
}

/** One that vouches for itself, for an address. */
export async function certificateFor(dir: string, address: string): Promise<Certificate> {
  const [key, cert] = [join(dir, 'tls-key.pem'), join(dir, 'tls-certificate.pem')];
  const words = ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', '/CN=test'];
  const names = ['-addext', `subjectAltName=IP:${address}`];
  execFileSync('openssl', [...words, ...names, '-keyout', key, '-out', cert], { stdio: 'ignore' });
  return { key: await readFile(key, 'utf8'), cert: await readFile(cert, 'utf8') };
}

export interface Account {
  user: string;
  password: string;
}

/** Debian's registry on this machine, for people with a password, whom it asks itself or a server of tokens. */
export async function privateRegistry(
  t: TestContext,
  dir: string,
  account: Account,
  by: 'password' | 'token',
): Promise<string> {
  await mkdir(join(dir, 'blobs'), { recursive: true });
  const name = `127.0.0.1:${await freePort()}`;
  const auth = by === 'password' ? passwordAuth(dir, account) : await tokenAuth(t, dir, name, account);
  const config = [
    'version: 0.1',
    ...['log:', '  level: error', '  accesslog:', '    disabled: true'],
    ...['storage:', '  filesystem:', `    rootdirectory: ${join(dir, 'blobs')}`],
    ...['http:', `  addr: ${name}`],
    ...['auth:', ...auth],
    '',
  ];
  await writeFile(join(dir, 'config.yml'), config.join('\n'));
  const child = spawn('docker-registry', ['serve', join(dir, 'config.yml')], { stdio: ['ignore', 'ignore', 'pipe'] });
  t.after(() => void child.kill());
  await answers(name, child);
  return name;
}

function passwordAuth(dir: string, { user, password }: Account): string[] {
  const file = join(dir, 'htpasswd');
  execFileSync('htpasswd', ['-icBC', '4', file, user], { input: password, stdio: ['pipe', 'ignore', 'ignore'] });
  return ['  htpasswd:', '    realm: test', `    path: ${file}`];
}

/** Distribution's own scheme: tokens signed by a key whose certificate the registry has. */
async function tokenAuth(t: TestContext, dir: string, service: string, account: Account): Promise<string[]> {
  const [key, certificate] = [join(dir, 'key.pem'), join(dir, 'certificate.pem')];
  const words = ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', '/CN=test'];
  execFileSync('openssl', [...words, '-keyout', key, '-out', certificate], { stdio: 'ignore' });
  const secret = createPrivateKey(await readFile(key));
  const chain = (await readFile(certificate, 'utf8')).replace(/-----[^-]+-----|\s/g, '');
  const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const server = createServer((request, response) => {
    const given = Buffer.from((request.headers.authorization ?? '').replace('Basic ', ''), 'base64').toString();
    if (given !== `${account.user}:${account.password}`) return void response.writeHead(401).end();
    const query = new URL(request.url ?? '', 'http://x').searchParams;
    const access = query.getAll('scope').map((scope) => {
      const [type, name, actions = ''] = scope.split(':');
      return { type, name, actions: actions.split(',') };
    });
    const now = Math.floor(Date.now() / 1000);
    const claims = {
      iss: 'test',
      sub: account.user,
      aud: service,
      exp: now + 300,
      nbf: now - 60,
      iat: now,
      jti: '1',
      access,
    };
    const text = `${part({ typ: 'JWT', alg: 'RS256', x5c: [chain] })}.${part(claims)}`;
    const token = `${text}.${sign('sha256', Buffer.from(text), secret).toString('base64url')}`;
    response.end(JSON.stringify({ token, expires_in: 300 }));
  });
  const realm = `http://${await listening(t, server)}/token`;
  return [
    '  token:',
    `    realm: ${realm}`,
    `    service: ${service}`,
    '    issuer: test',
    `    rootcertbundle: ${certificate}`,
  ];
}

async function answers(name: string, child: ChildProcess): Promise<void> {
  let said = '';
  child.stderr?.on('data', (chunk) => {
    said += chunk;
  });
  for (let tries = 0; tries < 100; tries++) {
    const status = await fetch(`http://${name}/v2/`).then(
      (response) => response.status,
      () => 0,
    );
    if (status === 401) return;
    if (child.exitCode !== null) break;
    await delay(100);
  }
  throw new Error(`The registry did not come up: ${said}`);
}
