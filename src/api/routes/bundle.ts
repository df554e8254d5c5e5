/** Routes of runtime bundles. */
import { z } from 'zod';
import * as s from '../schemas.ts';
import type { Route } from './route.ts';

export const bundleRoutes = {
  listBundles: { method: 'GET', url: '/v1/bundles', summary: 'Runtime bundles', response: z.array(s.Bundle) },
  buildBundle: {
    method: 'POST',
    url: '/v1/bundles/build',
    summary: 'Build a runtime bundle from Debian packages',
    body: s.BundleBuild,
    response: s.Operation,
    status: 202,
  },
  showBundle: {
    method: 'GET',
    url: '/v1/bundles/show',
    summary: 'One runtime bundle, in detail',
    // a path does not fit into an address's segment
    query: z.object({ name: s.BundleRef.optional() }),
    response: s.BundleDetail,
  },
  useBundle: {
    method: 'POST',
    url: '/v1/bundles/use',
    summary: 'Make a runtime bundle the default one',
    body: s.BundleUse,
    response: s.Bundle,
  },
  verifyBundle: {
    method: 'POST',
    url: '/v1/bundles/verify',
    summary: 'Check a runtime bundle’s sums and whether it can boot here',
    body: s.BundleVerify,
    response: s.Operation,
    status: 202,
  },
  importBundle: {
    method: 'POST',
    url: '/v1/bundles/import',
    summary: 'Bring a runtime bundle into the bundle store, verified',
    body: s.BundleImport,
    response: s.Operation,
    status: 202,
  },
  exportBundle: {
    method: 'POST',
    url: '/v1/bundles/export',
    summary: 'Write a runtime bundle as one file',
    body: s.BundleExport,
    response: s.Operation,
    status: 202,
  },
  adoptBundle: {
    method: 'POST',
    url: '/v1/bundles/adopt',
    summary: 'Write the bundle.json of a directory that has none',
    body: s.BundleAdopt,
    response: s.Operation,
    status: 202,
  },
} as const satisfies Record<string, Route>;
