/** The OpenAPI 3.1 document, made from the same table that validates requests. */
import { z } from 'zod';
import { contract, type Route } from '../api/contract.ts';
import { Problem } from '../api/operation.ts';
import { VERSION } from '../version.ts';

type JsonObject = Record<string, unknown>;

/** Made on request: nobody needs it in memory otherwise. */
export function openApiDocument(): JsonObject {
  const paths: Record<string, JsonObject> = {};
  for (const [operationId, route] of Object.entries<Route>(contract)) {
    const url = route.url.replace(/:(\w+)/g, '{$1}');
    paths[url] = { ...paths[url], [route.method.toLowerCase()]: describe(operationId, route) };
  }
  return {
    openapi: '3.1.0',
    info: {
      title: 'bangerd',
      version: VERSION,
      description:
        'Persistent Firecracker microVMs with names. HTTP over a Unix socket; long actions return an operation.',
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    paths,
    components: { schemas: { Problem: schema(Problem) } },
  };
}

function describe(operationId: string, route: Route): JsonObject {
  const status = String(route.status ?? 200);
  const media = route.streams ?? 'application/json';
  const content = route.response
    ? { [media]: { schema: schema(route.response) } }
    : route.streams
      ? { [media]: {} }
      : undefined;
  return {
    operationId,
    summary: route.summary,
    parameters: [...parameters('path', route.params), ...parameters('query', route.query)],
    ...(route.body
      ? { requestBody: { content: { 'application/json': { schema: schema(route.body, 'input') } } } }
      : {}),
    responses: {
      [status]: { description: 'success', ...(content ? { content } : {}) },
      default: {
        description: 'failure',
        content: { 'application/problem+json': { schema: { $ref: '#/components/schemas/Problem' } } },
      },
    },
  };
}

function parameters(place: 'path' | 'query', type: z.ZodType | undefined): JsonObject[] {
  if (!type) return [];
  const { properties = {}, required = [] } = schema(type, 'input') as {
    properties?: Record<string, JsonObject>;
    required?: string[];
  };
  return Object.entries(properties).map(([name, property]) => ({
    name,
    in: place,
    required: place === 'path' || required.includes(name),
    schema: property,
  }));
}

function schema(type: z.ZodType, io: 'input' | 'output' = 'output'): JsonObject {
  const { $schema: _dialect, ...rest } = z.toJSONSchema(type, { io, unrepresentable: 'any' });
  return rest;
}
