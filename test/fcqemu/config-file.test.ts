/** A microVM described by a file, with and without an API. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { describe, it, type TestContext } from 'node:test';
import { code, tinyKernel } from './support/tiny-kernel.ts';
import { guestSkipReason, startVmm, type Vmm } from './support/vmm-process.ts';

const skip = guestSkipReason() ?? false;

/** A VMM whose configuration, kernel and disk lie beside it; file names are relative to its directory. */
async function startWithFiles(
  t: TestContext,
  config: (file: (name: string) => string) => unknown,
  options: { instructions?: number[]; args?: string[]; noApi?: boolean; metadata?: string } = {},
): Promise<Vmm> {
  const { mkdtemp, writeFile, rm } = await import('node:fs/promises');
  const { tmpdir } = await import('node:os');
  const { join } = await import('node:path');
  const dir = await mkdtemp(join(tmpdir(), 'fcqemu-config-'));
  t.after(() => rm(dir, { recursive: true, force: true }));
  const file = (name: string) => join(dir, name);
  await writeFile(file('vmlinux'), tinyKernel(options.instructions ?? code.halt()));
  await writeFile(file('disk'), Buffer.alloc(4096));
  const text = config(file);
  await writeFile(file('config.json'), typeof text === 'string' ? text : JSON.stringify(text));
  if (options.metadata !== undefined) await writeFile(file('metadata.json'), options.metadata);
  return await startVmm(t, {
    withoutSocket: options.noApi ?? false,
    args: [
      ...['--config-file', file('config.json')],
      ...(options.metadata === undefined ? [] : ['--metadata', file('metadata.json')]),
      ...(options.noApi ? ['--no-api'] : []),
      ...(options.args ?? []),
    ],
  });
}

describe('a configuration file', { skip, concurrency: 2 }, () => {
  const minimal = (file: (name: string) => string) => ({
    'boot-source': { kernel_image_path: file('vmlinux'), boot_args: 'quiet' },
    drives: [{ drive_id: 'r', is_root_device: true, path_on_host: file('disk') }],
    'machine-config': { vcpu_count: 2, mem_size_mib: 64 },
    'no-such-section': true,
  });

  it('boots the machine and leaves the API with its rules for started machines', async (t) => {
    const vmm = await startWithFiles(t, minimal);
    // whoever asks while it starts is answered afterwards
    assert.equal((await vmm.get('/')).state, 'Running');
    assert.match(vmm.log(), /Successfully started microvm that was configured from one single json/);
    assert.equal((await vmm.get('/machine-config')).vcpu_count, 2);
    assert.match(await vmm.fault('PUT', '/entropy', {}), /not supported after starting/);
  });

  it('boots without any socket under --no-api, and ends when the guest resets', async (t) => {
    const vmm = await startWithFiles(t, minimal, { noApi: true, instructions: [...code.print('hi'), ...code.reset()] });
    const end = await vmm.ended;
    assert.deepEqual([end.code, end.stdout], [0, 'hi']);
    assert.equal(existsSync(vmm.socket), false);
  });

  const refused: [title: string, config: (file: (name: string) => string) => unknown, message: RegExp][] = [
    ['that is no JSON', () => '{', /Invalid JSON: EOF while parsing an object at line 1 column 1/],
    ['without drives', () => ({ 'boot-source': { kernel_image_path: 'x' } }), /Invalid JSON: missing field `drives`/],
    [
      'with an unknown field inside a section',
      (file) => ({ ...minimal(file), entropy: { foo: 1 } }),
      /Invalid JSON: unknown field `foo`, expected `rate_limiter`/,
    ],
    [
      'with a kernel that is missing',
      (file) => ({ ...minimal(file), 'boot-source': { kernel_image_path: '/nonexistent' } }),
      /Boot source error: The kernel file cannot be opened: No such file or directory \(os error 2\)/,
    ],
  ];
  for (const [title, config, message] of refused) {
    it(`is refused with status 1 when it is one ${title}`, async (t) => {
      const vmm = await startWithFiles(t, config, { noApi: true });
      const end = await vmm.ended;
      assert.equal(end.code, 1);
      assert.match(vmm.log(), /Configuration for VMM from one single json failed: /);
      assert.match(vmm.log(), message);
    });
  }

  it('that cannot be read aborts the process', async (t) => {
    const vmm = await startVmm(t, { withoutSocket: true, args: ['--config-file', '/nonexistent', '--no-api'] });
    assert.equal((await vmm.ended).signal, 'SIGABRT');
  });
});

describe('--metadata', () => {
  it('fills the metadata store before the first request', async (t) => {
    const { writeFile } = await import('node:fs/promises');
    const { tempDir } = await import('../support/temp-dir.ts');
    const file = `${await tempDir(t)}/metadata.json`;
    await writeFile(file, '{"b": 1, "a": {"c": [true, null]}}');
    const vmm = await startVmm(t, { args: ['--metadata', file] });
    assert.equal((await vmm.call('GET', '/mmds')).body, '{"a":{"c":[true,null]},"b":1}');
    assert.match(vmm.log(), /Successfully added metadata to mmds from file/);
  });

  it('that is no JSON aborts the process', async (t) => {
    const { writeFile } = await import('node:fs/promises');
    const { tempDir } = await import('../support/temp-dir.ts');
    const file = `${await tempDir(t)}/metadata.json`;
    await writeFile(file, '{');
    const vmm = await startVmm(t, { args: ['--metadata', file], endsEarly: true });
    assert.equal((await vmm.ended).signal, 'SIGABRT');
  });

  for (const flag of ['--mmds-size-limit', '--http-api-max-payload-size']) {
    it(`that is larger than ${flag} allows ends the process with 1`, async (t) => {
      const { writeFile } = await import('node:fs/promises');
      const { tempDir } = await import('../support/temp-dir.ts');
      const file = `${await tempDir(t)}/metadata.json`;
      await writeFile(file, JSON.stringify({ latest: { 'meta-data': { 'ami-id': 'ami-12345678' } } }));
      const vmm = await startVmm(t, { args: ['--metadata', file, flag, '30'], endsEarly: true });
      assert.equal((await vmm.ended).code, 1);
      assert.match(vmm.log(), /Populating MMDS from file failed: The MMDS patch request doesn't fit\./);
    });
  }
});
