/** What a VM is given for its first boot: for whom, in which files, and what becomes of it. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { decideUserData } from '../../../src/control/vm/user-data.ts';
import { parseUserDataState, userDataFiles } from '../../../src/core/user-data.ts';
import { BangerError } from '../../../src/errors.ts';
import { lacking } from '../../bundle/sample-bundle.ts';
import { imagePlace } from '../images/image-host.ts';

const signal = new AbortController().signal;

async function bootOf(t: TestContext, withCloudInit: boolean) {
  const here = await imagePlace(t);
  const root = join(here.dir, 'tree');
  await mkdir(join(root, 'usr/bin'), { recursive: true });
  if (withCloudInit) await writeFile(join(root, 'usr/bin/cloud-init'), '');
  const rootfs = join(here.dir, 'tree.ext4');
  execFileSync('mke2fs', ['-q', '-F', '-t', 'ext4', '-d', root, rootfs, '4M']);
  const boot = { name: 'dev', kernel: '', initrd: undefined, rootfs, defaults: {} };
  return (given: Parameters<typeof decideUserData>[1]) => decideUserData(here.host, given, boot, signal);
}

describe('user data', { skip: lacking('mke2fs', 'debugfs') }, () => {
  it('is for cloud-init where the image has it', async (t) => {
    const decide = await bootOf(t, true);
    assert.equal(await decide({}), undefined);
    assert.equal((await decide({ userData: '#cloud-config\n' }))?.by, 'cloud-init');
    assert.equal((await decide({ userData: '#!/bin/sh\n', metaData: 'a: b' }))?.by, 'cloud-init');
    await assert.rejects(decide({ metaData: 'a: b' }), /metaData is of no use without userData/);
  });

  it('is a script where it has not, and everything else is refused with the command that adds it', async (t) => {
    const decide = await bootOf(t, false);
    assert.deepEqual(await decide({ userData: '#!/bin/sh\nid\n' }), { by: 'script', userData: '#!/bin/sh\nid\n' });
    await assert.rejects(decide({ userData: '#cloud-config\npackages: [jq]\n' }), (error) => {
      assert.ok(error instanceof BangerError);
      assert.equal(error.message, 'dev has no cloud-init, which #cloud-config is for.');
      assert.match(error.hint ?? '', /banger image build --from dev --name dev-cloud --package cloud-init/);
      return true;
    });
  });

  it('is laid where cloud-init looks, with what keeps banger’s own network and keys', () => {
    const vm = { id: 'abcd1234', name: 'web' };
    const files = userDataFiles({ by: 'cloud-init', userData: '#cloud-config\n' }, vm);
    assert.equal(files['/var/lib/cloud/seed/nocloud/user-data'], '#cloud-config\n');
    assert.equal(files['/var/lib/cloud/seed/nocloud/meta-data'], 'instance-id: banger-abcd1234\nlocal-hostname: web\n');
    assert.match(files['/etc/cloud/cloud.cfg.d/99-banger.cfg'] ?? '', /ssh_deletekeys: false/);
    const own = userDataFiles({ by: 'cloud-init', userData: 'x', metaData: 'instance-id: 7' }, vm);
    assert.equal(own['/var/lib/cloud/seed/nocloud/meta-data'], 'instance-id: 7');
    assert.deepEqual(userDataFiles({ by: 'script', userData: '#!' }, vm), {});
  });

  it('is under way, done or failed, as the guest says', () => {
    const script = (text: string) => parseUserDataState('script', text);
    assert.deepEqual(script(''), { by: 'script', state: 'running', detail: '' });
    assert.deepEqual(script('status=0\n'), { by: 'script', state: 'done', detail: '' });
    assert.deepEqual(script('status=3\n'), { by: 'script', state: 'failed', detail: 'status 3' });
    assert.equal(script('rubbish').state, 'failed');
    const cloud = (text: string) => parseUserDataState('cloud-init', text);
    assert.equal(cloud('').state, 'running');
    assert.equal(cloud('{"v1":{"datasource":"DataSourceNoCloud","errors":[]}}').state, 'done');
    assert.deepEqual(cloud('{"v1":{"errors":["(\'runcmd\', …)","two"]}}').detail, "('runcmd', …); two");
    for (const text of ['[', '{}', '7', '{"v1":{"errors":3}}']) assert.equal(cloud(text).state, 'failed');
  });
});
