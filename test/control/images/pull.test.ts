/** OCI images become images: what is kept of them, what is fetched again, and what is refused. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { viewImageDetail } from '../../../src/control/images/catalogue.ts';
import { pruneImages } from '../../../src/control/images/prune.ts';
import { pullImage } from '../../../src/control/images/pull.ts';
import { BangerError } from '../../../src/errors.ts';
import { imageFiles, ociFiles } from '../../../src/storage/layout.ts';
import { rawTar, type SampleImage, writeOciLayout } from '../../support/oci-image.ts';
import { type ImagePlace, imagePlace } from './image-host.ts';

const hasSkopeo = spawnSync('skopeo', ['--version']).status === 0;
const hasAgent = existsSync(join(import.meta.dirname, '../../../dist/banger-agent'));
const skip = !hasSkopeo ? 'skopeo is not installed' : !hasAgent && 'dist/banger-agent is not compiled (make build)';

const BASE = {
  tar: rawTar([
    { path: 'etc/passwd', data: 'root:x:0:0::/:/bin/sh\n' },
    { path: 'lib/apk/db/installed', data: 'P:musl\nV:1.2\nA:x86_64\n\nP:busybox\nV:1.36-r1\nA:x86_64\n' },
  ]),
};

async function place(t: TestContext, image: Partial<SampleImage> = {}) {
  const made = await imagePlace(t);
  const directory = join(made.dir, 'layout');
  const upper = { tar: rawTar([{ path: 'app', data: '#!/bin/sh\n', mode: 0o755 }]), packedBy: 'zstd' as const };
  const { layers } = await writeOciLayout(directory, { layers: [BASE, upper], ...image });
  return { ...made, directory, layers, blobs: join(ociFiles(made.host.config.paths.store).blobs, 'sha256') };
}

function pull({ host, progress }: ImagePlace, reference: string, more: Partial<Parameters<typeof pullImage>[1]> = {}) {
  return pullImage(host, { reference, ...more }, progress, new AbortController().signal);
}

const corrupt = (pattern: RegExp) => (error: unknown) =>
  error instanceof BangerError && error.code === 'corrupt' && pattern.test(error.message);

describe('pulling an OCI image', { skip }, () => {
  it('makes an image of it that says what it was and what is installed', async (t) => {
    const config = { Entrypoint: ['/app'], Cmd: ['-v'], Env: ['A=b'], User: 'root', ExposedPorts: { '80/tcp': {} } };
    const here = await place(t, { config });
    const image = await pull(here, `oci:${here.directory}`, { name: 'app' });
    assert.deepEqual([image.name, image.pulled, image.problem], ['app', true, null]);
    const detail = await viewImageDetail(here.host, 'app');
    assert.deepEqual(detail.oci?.entrypoint, ['/app']);
    assert.deepEqual([detail.oci?.stopSignal, detail.oci?.workdir, detail.oci?.ports], ['SIGTERM', '/', ['80/tcp']]);
    const { packages } = imageFiles(here.host.config.paths.store, image.id);
    assert.equal(await readFile(packages, 'utf8'), 'busybox 1.36-r1 x86_64\nmusl 1.2 x86_64\n');
  });

  it('is not fetched when it is here, and never when that is not wanted', async (t) => {
    const here = await place(t);
    const reference = `oci:${here.directory}`;
    await assert.rejects(pull(here, reference, { policy: 'never' }), /is not here/);
    const first = await pull(here, reference);
    assert.equal(first.name, 'layout');
    const second = await pull(here, reference, { policy: 'never' });
    assert.deepEqual([second.id, second.pulled], [first.id, false]);
  });

  it('a layer that is damaged here is not kept', async (t) => {
    const here = await place(t);
    await pull(here, `oci:${here.directory}`);
    const [layer = ''] = here.layers;
    const blob = join(here.blobs, layer.slice(7));
    const bytes = await readFile(blob);
    bytes[bytes.length - 1] = (bytes.at(-1) ?? 0) ^ 1;
    await writeFile(blob, bytes);
    const again = () => pull(here, `oci:${here.directory}`, { name: 'again', policy: 'always' });
    await assert.rejects(again(), (error) => error instanceof BangerError && error.code === 'corrupt');
    assert.ok(!(await readdir(here.blobs)).includes(layer.slice(7)));
    assert.equal((await again()).pulled, true);
    assert.deepEqual(
      await here.inStore(),
      here.host.stores.images
        .list()
        .map(({ id }) => id)
        .sort(),
    );
  });

  it('a layer that unpacks to something else than it should is refused, and leaves nothing', async (t) => {
    const here = await place(t, { diffIds: [`sha256:${'1'.repeat(64)}`, `sha256:${'2'.repeat(64)}`] });
    await assert.rejects(pull(here, `oci:${here.directory}`), corrupt(/unpacks to something else/));
    assert.deepEqual(await here.inStore(), []);
    assert.deepEqual(await readdir(ociFiles(here.host.config.paths.store).pulls), []);
  });

  it('an image for another processor is refused by name', async (t) => {
    const here = await place(t, { architecture: 's390x' });
    await assert.rejects(pull(here, `oci:${here.directory}`), /only for linux\/s390x/);
    await assert.rejects(pull(here, 'nginx', { platform: 'linux/s390x' }), /Guests of this machine run/);
  });

  it('a registry that is not there is said to be so', async (t) => {
    const here = await place(t);
    await assert.rejects(pull(here, '127.0.0.1:9/a/b'), /the registry cannot be reached/);
    await assert.rejects(pull(here, 'oci-archive:/nowhere.tar'), /nothing to read at \/nowhere.tar/);
  });

  it('layers go that no image is made of any more', async (t) => {
    const here = await place(t);
    await pull(here, `oci:${here.directory}`);
    await writeFile(join(here.blobs, 'f'.repeat(64)), 'left');
    const prune = (request: Parameters<typeof pruneImages>[1]) =>
      pruneImages(here.host, request, here.progress, new AbortController().signal);
    await prune({});
    const left = await readdir(here.blobs);
    assert.deepEqual(left.sort(), here.layers.map((layer) => layer.slice(7)).sort());
    assert.equal((await prune({ all: true })).blobs, 2);
  });
});
