/** Registries that ask who is there, break off, answer wrongly, or never: what is fetched, what is said, and what is left. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { chmod, mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { promisify } from 'node:util';
import { pullImage } from '../../../src/control/images/pull.ts';
import { BangerError } from '../../../src/errors.ts';
import { parseReference } from '../../../src/oci/reference.ts';
import { copyImage } from '../../../src/oci/skopeo.ts';
import { imageFiles, ociFiles } from '../../../src/storage/layout.ts';
import { lacking } from '../../bundle/sample-bundle.ts';
import { type FakeRegistry, fakeRegistry, privateRegistry } from '../../support/fake-registry.ts';
import { rawTar, type SampleImage, writeOciLayout } from '../../support/oci-image.ts';
import { type ImagePlace, imagePlace } from './image-host.ts';

const hasAgent = existsSync(join(import.meta.dirname, '../../../dist/banger-agent'));
const skip = lacking('skopeo') || (!hasAgent && 'dist/banger-agent is not compiled (make build)');
const ACCOUNT = { user: 'ann', password: 'correct-horse-battery' };
const SECRETS = [ACCOUNT.password, Buffer.from(`${ACCOUNT.user}:${ACCOUNT.password}`).toString('base64')];

interface Place extends ImagePlace {
  layout: string;
  layers: string[];
  blobs: string;
  /** arguments of every program that fetched */
  argv(): Promise<string>;
}

/** Two layers of one file each; skopeo is one that writes down how it is called. */
async function place(t: TestContext, image: Partial<SampleImage> = {}): Promise<Place> {
  const made = await imagePlace(t);
  const layout = join(made.dir, 'layout');
  const layer = (path: string, data: string) => ({ tar: rawTar([{ path, data }]) });
  const { layers } = await writeOciLayout(layout, {
    layers: [
      layer('one', randomBytes(50_000).toString('latin1')),
      layer('two', randomBytes(400_000).toString('latin1')),
    ],
    ...image,
  });
  const [seen, program] = [join(made.dir, 'argv'), join(made.dir, 'noting-skopeo')];
  await writeFile(seen, '');
  await writeFile(program, `#!/bin/sh\necho "$@" >> ${seen}\nexec skopeo "$@"\n`);
  await chmod(program, 0o755);
  const { config } = made.host;
  const host = { ...made.host, config: { ...config, programs: { ...config.programs, skopeo: program } } };
  return {
    ...{ ...made, host, layout, layers },
    blobs: join(ociFiles(config.paths.store).blobs, 'sha256'),
    argv: async () => await readFile(seen, 'utf8'),
  };
}

function pull({ host, progress }: Place, reference: string, more: Partial<Parameters<typeof pullImage>[1]> = {}) {
  return pullImage(host, { reference, ...more }, progress, new AbortController().signal);
}

const error = (code: string, pattern: RegExp) => (thrown: unknown) => {
  assert.ok(thrown instanceof BangerError, String(thrown));
  assert.match(`${thrown.code}: ${thrown.message}`, pattern);
  assert.equal(thrown.code, code, thrown.message);
  return true;
};

/** Nothing of a pull that failed is left but layers that came whole. */
async function leftNothing({ host, inStore }: Place): Promise<void> {
  assert.deepEqual(await inStore(), []);
  assert.deepEqual(await readdir(ociFiles(host.config.paths.store).pulls).catch(() => []), []);
}

describe('a registry that asks for a password', {
  skip: skip || lacking('docker-registry', 'htpasswd', 'openssl'),
}, () => {
  for (const by of ['password', 'token'] as const) {
    it(`itself or by a server of tokens (${by}) is answered from files, and nothing of that is written or said`, async (t) => {
      const here = await place(t);
      const registry = await privateRegistry(t, join(here.dir, 'registry'), ACCOUNT, by);
      const auth = join(here.dir, 'auth.json');
      const [plain, encoded] = SECRETS;
      await writeFile(auth, JSON.stringify({ auths: { [registry]: { auth: encoded } } }));
      const words = ['--dest-tls-verify=false', '--authfile', auth, '--insecure-policy'];
      // the server of tokens is in this process
      await promisify(execFile)('skopeo', [
        'copy',
        '-q',
        ...words,
        `oci:${here.layout}`,
        `docker://${registry}/team/app:1`,
      ]);
      const reference = `${registry}/team/app:1`;
      await assert.rejects(pull(here, reference), error('host_unprepared', /the registry wants another login/));
      await leftNothing(here);

      const first = await pull(here, reference, { authFile: auth });
      // where programs look by themselves
      await mkdir(join(here.dir, '.docker'));
      await writeFile(join(here.dir, '.docker/config.json'), await readFile(auth));
      await pull(here, reference, { name: 'second', policy: 'always' });
      // by a helper, which the file names
      const helper = join(here.dir, 'docker-credential-sample');
      const answer = JSON.stringify({ ServerURL: registry, Username: ACCOUNT.user, Secret: plain });
      await writeFile(helper, `#!/bin/sh\necho '${answer}'\n`);
      await chmod(helper, 0o755);
      await writeFile(join(here.dir, '.docker/config.json'), JSON.stringify({ credHelpers: { [registry]: 'sample' } }));
      const path = here.host.system.env.PATH;
      here.host.system.env.PATH = `${here.dir}:${path}`;
      await pull(here, reference, { name: 'third', policy: 'always' });

      const files = imageFiles(here.host.config.paths.store, first.id);
      const said = [await here.argv(), here.warnings.join('\n'), await readFile(files.oci, 'utf8')].join('\n');
      const inGuest = await readFile(files.rootfs, 'latin1');
      for (const secret of SECRETS) assert.ok(!said.includes(secret) && !inGuest.includes(secret));
      assert.match(said, /copy/);
    });
  }
});

describe('a registry that misbehaves', { skip }, () => {
  async function registryOf(
    t: TestContext,
    image: Partial<SampleImage> = {},
  ): Promise<Place & { registry: FakeRegistry; reference: string }> {
    const here = await place(t, image);
    const registry = await fakeRegistry(t, here.layout);
    return { ...here, registry, reference: `${registry.name}/app` };
  }

  it('by refusing every token is left alone', async (t) => {
    const here = await registryOf(t);
    here.registry.misbehave((request, response) => {
      if (request.url?.startsWith('/token')) response.end('{"token":"x"}');
      else {
        const bearer = `Bearer realm="http://${here.registry.name}/token",service="x"`;
        response.writeHead(401, { 'www-authenticate': bearer }).end('{"errors":[{"code":"UNAUTHORIZED"}]}');
      }
      return true;
    });
    await assert.rejects(pull(here, here.reference), error('host_unprepared', /wants another login/));
    assert.ok(here.registry.requests.length < 20, here.registry.requests.join('\n'));
    await leftNothing(here);
  });

  it('by sending to another host is not followed there with its token', async (t) => {
    const here = await registryOf(t);
    const other = await fakeRegistry(t, here.layout);
    const seen: (string | undefined)[] = [];
    other.misbehave((request) => {
      seen.push(request.headers.authorization);
      return false;
    });
    here.registry.misbehave((request, response) => {
      if (request.url?.startsWith('/token')) {
        response.end('{"token":"secret-token"}');
        return true;
      }
      if (request.headers.authorization !== 'Bearer secret-token') {
        const bearer = `Bearer realm="http://${here.registry.name}/token",service="x"`;
        response.writeHead(401, { 'www-authenticate': bearer }).end();
        return true;
      }
      if (!request.url?.includes('/blobs/')) return false;
      response
        .writeHead(307, { location: `http://${other.name.replace('127.0.0.1', 'localhost')}${request.url}` })
        .end();
      return true;
    });
    await pull(here, here.reference);
    assert.ok(seen.length >= 2);
    assert.deepEqual(new Set(seen), new Set([undefined]));
  });

  it('by asking to wait is waited for, and given up when it never ends', async (t) => {
    const here = await registryOf(t);
    let asked = 0;
    here.registry.misbehave((request, response) => {
      if (!request.url?.includes('/blobs/') || asked++ > 0) return false;
      response.writeHead(429, { 'retry-after': '1' }).end();
      return true;
    });
    await pull(here, here.reference);
    assert.ok(asked > 1);
    here.registry.misbehave((_, response) => {
      response.writeHead(429, { 'retry-after': '1' }).end('{"errors":[{"code":"TOOMANYREQUESTS"}]}');
      return true;
    });
    await assert.rejects(
      pull(here, here.reference, { name: 'other', policy: 'always' }),
      error('host_unprepared', /too many requests/),
    );
  });

  it('by breaking off goes on with what is missing the next time', async (t) => {
    const here = await registryOf(t);
    const [first = '', second = ''] = here.layers;
    here.registry.misbehave((request, response) => {
      if (!request.url?.endsWith(second) || request.method === 'HEAD') return false;
      // the other one comes whole meanwhile
      setTimeout(() => {
        response.writeHead(200, { 'content-length': '400000' });
        response.write(Buffer.alloc(1000), () => response.destroy());
      }, 500);
      return true;
    });
    await assert.rejects(pull(here, here.reference));
    await leftNothing(here);
    assert.deepEqual(await readdir(here.blobs).then((names) => names.includes(first.slice(7))), true);
    here.registry.misbehave(undefined);
    here.registry.requests.length = 0;
    await pull(here, here.reference);
    assert.ok(!here.registry.requests.some((request) => request.startsWith('GET') && request.endsWith(first)));
  });

  it('by falling silent is given up', async (t) => {
    const here = await registryOf(t);
    here.registry.misbehave((request, response) => {
      if (!request.url?.includes('/blobs/')) return false;
      response.writeHead(200, { 'content-length': '400000' });
      response.write(Buffer.alloc(1000));
      return true;
    });
    const { runner, env } = here.host.system;
    const deps = { runner, env, program: 'skopeo', signal: new AbortController().signal, stallMs: 1500 };
    const at = (name: string) => join(here.dir, name);
    const target = { layout: at('own'), blobs: at('blobs'), scratch: at('scratch') };
    for (const path of Object.values(target)) await mkdir(path);
    const options = { platform: { os: 'linux', architecture: 'amd64' }, insecure: false };
    const copied = copyImage(deps, parseReference(here.reference), undefined, target, options, () => {});
    await assert.rejects(copied, error('timeout', /has come for/));
  });

  it('by giving other bytes than it promised is refused, and what came is not kept', async (t) => {
    const here = await registryOf(t);
    const [first = ''] = here.layers;
    for (const change of [(bytes: Buffer) => bytes.fill(0, 100, 110), (bytes: Buffer) => bytes.subarray(0, 20_000)]) {
      here.registry.misbehave(async (request, response) => {
        if (!request.url?.endsWith(first) || request.method === 'HEAD') return false;
        const bytes = change(await readFile(join(here.layout, 'blobs/sha256', first.slice(7))));
        response.writeHead(200, { 'content-length': bytes.length }).end(bytes);
        return true;
      });
      await assert.rejects(pull(here, here.reference));
      await leftNothing(here);
      assert.ok(!(await readdir(here.blobs)).includes(first.slice(7)));
    }
    here.registry.misbehave(undefined);
    await pull(here, here.reference);
  });

  it('by its documents is refused before anything is fetched', async (t) => {
    const here = await registryOf(t);
    const digest = `sha256:${'0'.repeat(64)}`;
    const type = 'application/vnd.oci.image.manifest.v1+json';
    const blob = { mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip', digest, size: 1 };
    const manifest = (layers: unknown[]) =>
      JSON.stringify({
        schemaVersion: 2,
        mediaType: type,
        config: { ...blob, mediaType: 'application/vnd.oci.image.config.v1+json' },
        layers,
      });
    const index = (manifests: unknown[]) =>
      JSON.stringify({ schemaVersion: 2, mediaType: 'application/vnd.oci.image.index.v1+json', manifests });
    const INDEX = 'application/vnd.oci.image.index.v1+json';
    const platform = { os: 'linux', architecture: 's390x' };
    const cases: [string, string, string, string, RegExp][] = [
      ['many', manifest(Array(10_000).fill(blob)), type, 'corrupt', /must have at most 1000 layers/],
      [
        'long',
        manifest([{ ...blob, annotations: { a: 'x'.repeat(5_000_000) } }]),
        type,
        'corrupt',
        /longer than any|cannot be read/,
      ],
      ['wide', index(Array(20_000).fill({ ...blob, mediaType: type, platform })), INDEX, 'corrupt', /manifests/],
      ['other', index([{ ...blob, mediaType: type, platform }]), INDEX, 'not_found', /only for linux\/s390x/],
      ['empty', index([]), INDEX, 'corrupt', /none that can be read/],
      ['rubbish', '{"schemaVersion":2,"layers":7}', type, 'corrupt', /none that can be read/],
      ['none', '[', type, 'corrupt', /is no JSON/],
    ];
    for (const [tag, document, mediaType, code, pattern] of cases) {
      here.registry.tag(tag, document, mediaType);
      await assert.rejects(pull(here, `${here.reference}:${tag}`), error(code, pattern));
      await leftNothing(here);
    }
    assert.ok(!here.registry.requests.some((request) => request.includes('/blobs/')));
    // an index whose manifest is an index again
    const inner = index([{ ...blob, mediaType: type }]);
    const innerDigest = `sha256:${createHash('sha256').update(inner).digest('hex')}`;
    const own = { os: 'linux', architecture: process.arch === 'arm64' ? 'arm64' : 'amd64' };
    here.registry.tag(innerDigest, inner, INDEX);
    here.registry.tag(
      'nested',
      index([{ mediaType: INDEX, digest: innerDigest, size: inner.length, platform: own }]),
      INDEX,
    );
    await assert.rejects(pull(here, `${here.reference}:nested`), error('corrupt', /another manifest than the index/));
  });
});
