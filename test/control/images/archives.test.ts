/** OCI images from files, from registries with certificates, for several platforms, behind tags that move. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { cp, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { pullBase, pulledAs } from '../../../src/control/builds/oci-base.ts';
import { viewImageDetail } from '../../../src/control/images/catalogue.ts';
import { readOciRecord } from '../../../src/control/images/oci-record.ts';
import { pullImage } from '../../../src/control/images/pull.ts';
import { BangerError } from '../../../src/errors.ts';
import { imageFiles, ociFiles } from '../../../src/storage/layout.ts';
import { lacking } from '../../bundle/sample-bundle.ts';
import { certificateFor, fakeRegistry } from '../../support/fake-registry.ts';
import { rawTar, writeOciLayout } from '../../support/oci-image.ts';
import { type ImagePlace, imagePlace } from './image-host.ts';

const hasAgent = existsSync(join(import.meta.dirname, '../../../dist/banger-agent'));
const skip = lacking('skopeo', 'openssl') || (!hasAgent && 'dist/banger-agent is not compiled (make build)');
const OWN = process.arch === 'arm64' ? 'arm64' : 'amd64';

/** A layout of one file, whose name tells them apart. */
async function layoutOf(dir: string, name: string, more: { architecture?: string } = {}): Promise<string> {
  const layout = join(dir, `layout-${name}`);
  const layers = [{ tar: rawTar([{ path: `only-${name}`, data: name }]) }];
  await writeOciLayout(layout, { layers, config: { Labels: { is: name } }, ...more });
  return layout;
}

function skopeo(...words: string[]): void {
  execFileSync('skopeo', ['--insecure-policy', 'copy', '-q', ...words], { stdio: 'pipe' });
}

function pull({ host, progress }: ImagePlace, reference: string, more: Partial<Parameters<typeof pullImage>[1]> = {}) {
  return pullImage(host, { reference, ...more }, progress, new AbortController().signal);
}

async function labelOf({ host }: ImagePlace, name: string): Promise<string | undefined> {
  return (await viewImageDetail(host, name)).oci?.labels.is;
}

const refused = (code: string, pattern: RegExp) => (thrown: unknown) => {
  assert.ok(thrown instanceof BangerError, String(thrown));
  assert.match(`${thrown.code}: ${thrown.message}`, pattern);
  assert.equal(thrown.code, code);
  return true;
};

describe('an OCI image in a file', { skip }, () => {
  it('is pulled from an OCI archive, from what `docker save` writes, and from a layout', async (t) => {
    const here = await imagePlace(t);
    const layout = await layoutOf(here.dir, 'one');
    const [oci, docker] = [join(here.dir, 'one.oci.tar'), join(here.dir, 'Saved.tar')];
    skopeo(`oci:${layout}`, `oci-archive:${oci}`);
    skopeo(`oci:${layout}`, `docker-archive:${docker}:web:1`);
    const digests = new Set<string>();
    for (const reference of [`oci-archive:${oci}`, `docker-archive:${docker}`, `oci:${layout}`]) {
      const image = await pull(here, reference);
      assert.equal(await labelOf(here, image.name), 'one');
      const record = await readOciRecord(imageFiles(here.host.config.paths.store, image.id).oci);
      digests.add(record?.layers[0]?.diffId ?? reference);
    }
    assert.equal(digests.size, 1);
    assert.deepEqual(
      here.host.stores.images
        .list()
        .map(({ name }) => name)
        .sort(),
      ['layout-one', 'one', 'saved'],
    );
  });

  it('is read again when it was written anew, and not when it is gone', async (t) => {
    const here = await imagePlace(t);
    const archive = join(here.dir, 'app.tar');
    const write = async (name: string) => {
      await rm(archive, { force: true });
      skopeo(`oci:${await layoutOf(here.dir, name)}`, `oci-archive:${archive}`);
    };
    await write('one');
    const reference = `oci-archive:${archive}`;
    const first = await pull(here, reference);
    assert.equal((await pull(here, reference)).id, first.id);
    await write('two');
    assert.equal((await pull(here, reference, { policy: 'never' })).id, first.id);
    const second = await pull(here, reference);
    assert.deepEqual([second.name, second.pulled, await labelOf(here, 'app')], ['app', true, 'two']);
    assert.deepEqual(await here.inStore(), [second.id]);
    await rm(archive);
    assert.equal((await pull(here, reference)).id, second.id);

    const layout = await layoutOf(here.dir, 'three');
    const third = await pull(here, `oci:${layout}`, { name: 'dir' });
    assert.equal((await pull(here, `oci:${layout}`, { name: 'dir' })).id, third.id);
    await writeOciLayout(layout, {
      layers: [{ tar: rawTar([{ path: 'other' }]) }],
      config: { Labels: { is: 'four' } },
    });
    await pull(here, `oci:${layout}`, { name: 'dir' });
    assert.equal(await labelOf(here, 'dir'), 'four');
  });

  it('among several is the one that is named', async (t) => {
    const here = await imagePlace(t);
    const layout = join(here.dir, 'both');
    for (const name of ['one', 'two']) skopeo(`oci:${await layoutOf(here.dir, name)}`, `oci:${layout}:${name}`);
    await assert.rejects(pull(here, `oci:${layout}`), refused('invalid_input', /holds several images/));
    await assert.rejects(pull(here, `oci:${layout}:three`), refused('not_found', /is not in there/));
    assert.equal(await labelOf(here, (await pull(here, `oci:${layout}:two`)).name), 'two');

    const saved = join(here.dir, 'saved.tar');
    skopeo(`oci:${layout}:one`, `docker-archive:${saved}:web:1`);
    const tree = join(here.dir, 'tree');
    await mkdir(tree);
    execFileSync('tar', ['-xf', saved, '-C', tree]);
    const [first] = JSON.parse(await readFile(join(tree, 'manifest.json'), 'utf8'));
    const both = [first, { ...first, RepoTags: ['docker.io/library/other:2'] }];
    await writeFile(join(tree, 'manifest.json'), JSON.stringify(both));
    execFileSync('tar', ['-cf', saved, '-C', tree, '.', '--transform', 's,^\\./,,']);
    await assert.rejects(pull(here, `docker-archive:${saved}`), refused('invalid_input', /holds several images/));
    await assert.rejects(pull(here, `docker-archive:${saved}:none:1`), refused('not_found', /is not in there/));
    assert.equal((await pull(here, `docker-archive:${saved}:other:2`)).name, 'saved-other-2');
  });

  it('that is none, or cut short, is refused by name and leaves nothing', async (t) => {
    const here = await imagePlace(t);
    const [oci, docker, text] = ['a.tar', 'b.tar', 'text'].map((name) => join(here.dir, name)) as [
      string,
      string,
      string,
    ];
    const layout = await layoutOf(here.dir, 'one');
    skopeo(`oci:${layout}`, `oci-archive:${oci}`);
    skopeo(`oci:${layout}`, `docker-archive:${docker}:web:1`);
    await writeFile(text, 'no archive\n'.repeat(1000));
    const cases: [string, string, RegExp][] = [
      [`oci-archive:${text}`, 'invalid_input', /no archive or layout of that kind/],
      [`docker-archive:${text}`, 'invalid_input', /no archive or layout of that kind/],
      [`docker-archive:${oci}`, 'invalid_input', /no archive or layout of that kind/],
      [`oci-archive:${docker}`, 'invalid_input', /no archive or layout of that kind/],
      [`oci:${here.dir}`, 'invalid_input', /no archive or layout of that kind/],
    ];
    for (const name of ['oci', 'docker'] as const) {
      const cut = join(here.dir, `cut-${name}`);
      await writeFile(cut, (await readFile(name === 'oci' ? oci : docker)).subarray(0, 700));
      cases.push([`${name}-archive:${cut}`, 'corrupt', /is cut short/]);
    }
    for (const [reference, code, pattern] of cases) {
      await assert.rejects(pull(here, reference, { name: 'x' }), refused(code, pattern), reference);
    }
    assert.deepEqual(await here.inStore(), []);
    assert.deepEqual(await readdir(ociFiles(here.host.config.paths.store).pulls), []);
  });

  it('that was written anew is pulled anew, whatever else was pulled of it before', async (t) => {
    const here = await imagePlace(t);
    const archive = join(here.dir, 'x.tar');
    const write = async (content: string) => {
      await rm(archive, { force: true });
      skopeo(`oci:${await layoutOf(here.dir, content)}`, `oci-archive:${archive}`);
    };
    const reference = `oci-archive:${archive}`;
    const base = () => pulledAs(here.host, reference);
    await write('one');
    await pull(here, reference, { name: 'a' });
    assert.equal(await base(), 'a');
    await write('two');
    assert.equal(await base(), undefined);
    await pull(here, reference);
    assert.deepEqual([await base(), await labelOf(here, 'x'), await labelOf(here, 'a')], ['x', 'two', 'one']);
    // both are of before now, and the one whose name it gets makes way
    await write('three');
    await pullBase(here.host, reference, {}, here.progress, new AbortController().signal);
    assert.deepEqual([await base(), await labelOf(here, 'x'), await labelOf(here, 'a')], ['x', 'three', 'one']);
  });

  it('says as what to pull a base whose name another image has', async (t) => {
    const here = await imagePlace(t);
    await here.import({ name: 'layout-one' });
    const reference = `oci:${await layoutOf(here.dir, 'one')}`;
    await assert.rejects(
      pullBase(here.host, reference, {}, here.progress, new AbortController().signal),
      (error) =>
        error instanceof BangerError &&
        error.code === 'conflict' &&
        error.hint?.endsWith(`pull ${reference} --name NAME`) === true,
    );
  });

  it('that unpacks to more than there is room for is refused and leaves nothing', {
    skip: process.getuid?.() === 0 ? false : 'needs root, to mount a small file system',
  }, async (t) => {
    const here = await imagePlace(t);
    const { store } = here.host.config.paths;
    const layout = await layoutOf(here.dir, 'one');
    // 500 MiB of zeros beside what belongs there
    const bomb = join(here.dir, 'bomb.tar.gz');
    execFileSync('sh', [
      '-c',
      `truncate -s 500M "$1/zeros" && tar -C "$1" -c . | gzip -1 > "$2" && rm "$1/zeros"`,
      ...['sh', layout, bomb],
    ]);
    await mkdir(store, { recursive: true });
    if (spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=330M', 'tmpfs', store]).status !== 0) {
      return t.skip('a file system cannot be mounted here');
    }
    using _ = { [Symbol.dispose]: () => void spawnSync('umount', ['-l', store]) };
    await assert.rejects(pull(here, `oci-archive:${bomb}`), refused('host_unprepared', /does not fit on the disk/));
    assert.deepEqual(await readdir(ociFiles(store).pulls), []);
    assert.equal((await pull(here, `oci:${layout}`)).pulled, true);
  });
});

describe('a registry with TLS', { skip }, () => {
  it('is trusted by a file with its authority, or when one says so, and not otherwise', async (t) => {
    const here = await imagePlace(t);
    const layout = await layoutOf(here.dir, 'one');
    // an address of this machine that is not taken for it
    const certificate = await certificateFor(here.dir, '0.0.0.0');
    const at = (name: string) => name.replace('127.0.0.1', '0.0.0.0');
    const plain = at((await fakeRegistry(t, layout)).name);
    await assert.rejects(pull(here, `${plain}/app`), refused('host_unprepared', /registry without TLS/));
    assert.equal((await pull(here, `${plain}/app`, { insecure: true, name: 'plain' })).pulled, true);

    const registry = at((await fakeRegistry(t, layout, certificate)).name);
    await assert.rejects(pull(here, `${registry}/app`), refused('host_unprepared', /certificate is not trusted here/));
    assert.equal((await pull(here, `${registry}/app`, { insecure: true, name: 'insecure' })).pulled, true);
    const trusted = join(here.dir, '.config/containers/certs.d', registry);
    await mkdir(trusted, { recursive: true });
    await writeFile(join(trusted, 'ca.crt'), certificate.cert);
    assert.equal((await pull(here, `${registry}/app`, { name: 'trusted', policy: 'always' })).pulled, true);
  });
});

describe('a registry elsewhere that sends to this machine', { skip }, () => {
  it('is followed there without what it was told, and what comes is believed by its digest alone', async (t) => {
    const here = await imagePlace(t);
    const layout = await layoutOf(here.dir, 'one');
    const certificate = await certificateFor(here.dir, '0.0.0.0');
    const elsewhere = await fakeRegistry(t, layout, certificate);
    const registry = elsewhere.name.replace('127.0.0.1', '0.0.0.0');
    const trusted = join(here.dir, '.config/containers/certs.d', registry);
    await mkdir(trusted, { recursive: true });
    await writeFile(join(trusted, 'ca.crt'), certificate.cert);
    const inner = await fakeRegistry(t, layout);
    let seen: string | undefined = 'not asked';
    let honest = false;
    inner.misbehave((request, response) => {
      seen = request.headers.authorization;
      if (!honest) response.end('a page of this machine');
      return !honest;
    });
    elsewhere.misbehave((request, response) => {
      if (!request.url?.includes('/blobs/')) return false;
      response.writeHead(307, { location: `http://${inner.name}${request.url}` }).end();
      return true;
    });
    const auth = Buffer.from('ann:secret').toString('base64');
    const authFile = join(here.dir, 'auth.json');
    await writeFile(authFile, JSON.stringify({ auths: { [registry]: { auth } } }));
    await assert.rejects(pull(here, `${registry}/app`, { authFile }), BangerError);
    assert.equal(seen, undefined);
    assert.deepEqual(await here.inStore(), []);
    honest = true;
    assert.equal((await pull(here, `${registry}/app`, { authFile })).pulled, true);
  });
});

describe('what a tag leads to', { skip }, () => {
  it('is the manifest for this machine, or for the platform that was asked for', async (t) => {
    const here = await imagePlace(t);
    const own = await layoutOf(here.dir, 'own');
    const other = await layoutOf(here.dir, 'other', { architecture: 's390x' });
    await cp(join(other, 'blobs'), join(own, 'blobs'), { recursive: true });
    const registry = await fakeRegistry(t, own);
    const manifest = async (layout: string) =>
      JSON.parse(await readFile(join(layout, 'index.json'), 'utf8')).manifests[0];
    const index = {
      schemaVersion: 2,
      mediaType: 'application/vnd.oci.image.index.v1+json',
      manifests: [
        { ...(await manifest(other)), platform: { os: 'linux', architecture: 's390x' } },
        // what builders add: descriptions of the others
        { ...(await manifest(other)), platform: { os: 'unknown', architecture: 'unknown' } },
        { ...(await manifest(own)), platform: { os: 'linux', architecture: OWN } },
      ],
    };
    registry.tag('multi', JSON.stringify(index), index.mediaType);
    const reference = `${registry.name}/app:multi`;
    for (const platform of [undefined, OWN, `linux/${OWN}`]) {
      const image = await pull(here, reference, {
        name: `p${platform?.length ?? 0}`,
        ...(platform ? { platform } : {}),
      });
      assert.equal(await labelOf(here, image.name), 'own');
    }
    await assert.rejects(
      pull(here, reference, { platform: 's390x' }),
      refused('invalid_input', /Guests of this machine/),
    );
    await assert.rejects(pull(here, reference, { platform: 'x' }), refused('invalid_input', /./));
  });

  it('is asked for again by --policy always alone, and takes the place of what it was', async (t) => {
    const here = await imagePlace(t);
    const one = await layoutOf(here.dir, 'one');
    const two = await layoutOf(here.dir, 'two');
    await cp(join(two, 'blobs'), join(one, 'blobs'), { recursive: true });
    const registry = await fakeRegistry(t, one);
    const reference = `${registry.name}/app`;
    const first = await pull(here, reference);
    assert.equal((await pull(here, reference, { policy: 'always' })).pulled, false);
    const [moved] = JSON.parse(await readFile(join(two, 'index.json'), 'utf8')).manifests;
    registry.tag('latest', await readFile(join(two, 'blobs/sha256', moved.digest.slice(7)), 'utf8'), moved.mediaType);
    registry.requests.length = 0;
    for (const policy of ['missing', 'never'] as const)
      assert.equal((await pull(here, reference, { policy })).id, first.id);
    assert.deepEqual(registry.requests, []);
    const second = await pull(here, reference, { policy: 'always' });
    assert.deepEqual([second.name, second.pulled, await labelOf(here, 'app')], ['app', true, 'two']);
    assert.deepEqual(await here.inStore(), [second.id]);
  });
});
