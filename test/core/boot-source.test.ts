import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { bootSource, bundleBelow, vmBootSource } from '../../src/core/boot-source.ts';

const dev = { id: '1', name: 'dev', base: 'debian-bookworm' };
const node = { id: '2', name: 'node', base: 'dev' };
const images = [dev, node];

describe('what a VM boots', () => {
  it('is an image of that name, else a bundle; the default one without a name', () => {
    assert.deepEqual(bootSource('dev', images), { from: 'image', image: dev });
    assert.deepEqual(bootSource('debian-bookworm', images), { from: 'bundle', name: 'debian-bookworm' });
    assert.deepEqual(bootSource(undefined, images), { from: 'bundle', name: undefined });
  });

  it('stays the image it was made from, renamed, replaced or with its name taken by another', () => {
    assert.deepEqual(vmBootSource({ image: 'dev', imageId: '1' }, [{ ...dev, name: 'dev-old' }]), {
      from: 'image',
      image: { ...dev, name: 'dev-old' },
    });
    const replaced = vmBootSource({ image: 'dev', imageId: '1' }, [{ ...dev, id: '3' }]);
    assert.deepEqual(replaced, { from: 'image', image: { id: '1', name: 'dev', base: '' } });
    assert.deepEqual(vmBootSource({ image: 'dev', imageId: null }, images), { from: 'bundle', name: 'dev' });
  });

  it('has the defaults of the bundle below, however many images are in between', () => {
    assert.equal(bundleBelow(node, images), 'debian-bookworm');
    assert.equal(bundleBelow({ base: '' }, images), undefined);
    assert.equal(bundleBelow({ base: 'gone' }, images), 'gone');
  });

  it('has none where images are made from each other', () => {
    const circle = [
      { id: '1', name: 'a', base: 'b' },
      { id: '2', name: 'b', base: 'a' },
    ];
    assert.equal(bundleBelow({ base: 'a' }, circle), undefined);
    assert.equal(bundleBelow({ base: 'self' }, [{ id: '1', name: 'self', base: 'self' }]), undefined);
  });
});
