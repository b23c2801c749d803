// SPDX-License-Identifier: Apache-2.0
// A service's memory: orders by key, an index from words to texts, documents as trees, a cache of
// what was last asked for. Texts come on standard input, a line each, up to an empty one; then it says
// "ready", and for each line with a number after that serves so many requests and says "done", up to the end of its input.

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.TreeMap;

public class Service {
    static final double SKEW = 7; // half of the requests are for a 128th of the orders
    static final int ORDERS = 60_000, DOCUMENTS = 12_000, REQUESTS = 200_000, CACHED = 20_000;

    record Line(String sku, int count, long cents) {}

    record Order(long id, String customer, long at, List<Line> lines) {
        long total() {
            return lines.stream().mapToLong(line -> line.count() * line.cents()).sum();
        }
    }

    static final class Cache extends LinkedHashMap<String, String> {
        Cache() {
            super(16, 0.75f, true);
        }

        @Override
        protected boolean removeEldestEntry(Map.Entry<String, String> eldest) {
            return size() > CACHED;
        }
    }

    final Random random = new Random(7);
    final List<String> texts, words;
    final Map<Long, Order> orders = new HashMap<>();
    final TreeMap<Long, List<Order>> byTotal = new TreeMap<>();
    final Map<String, Set<Integer>> index = new HashMap<>();
    final List<Map<String, Object>> documents = new ArrayList<>();
    final Cache cache = new Cache();

    Service(List<String> texts) {
        this.texts = texts;
        for (int i = 0; i < texts.size(); i++) {
            for (String word : texts.get(i).split("\\W+")) {
                index.computeIfAbsent(word.toLowerCase(), key -> new HashSet<>()).add(i);
            }
        }
        words = new ArrayList<>(new TreeMap<>(index).keySet());
    }

    String word() {
        return words.get(random.nextInt(words.size()));
    }

    Order order(long id) {
        List<Line> lines = new ArrayList<>();
        for (int i = random.nextInt(6); i >= 0; i--) {
            lines.add(new Line(word() + "-" + random.nextInt(1000), 1 + random.nextInt(5), random.nextInt(9999)));
        }
        return new Order(id, word() + " " + word(), 1_700_000_000L + id * 37, lines);
    }

    Map<String, Object> document(int depth) {
        Map<String, Object> node = new LinkedHashMap<>();
        node.put("title", word() + " " + word());
        node.put("score", random.nextDouble());
        node.put("tags", List.of(word(), word(), word()));
        if (depth > 0) {
            List<Object> children = new ArrayList<>();
            for (int i = random.nextInt(3); i >= 0; i--) {
                children.add(document(depth - 1));
            }
            node.put("children", children);
        }
        return node;
    }

    String answer(String asked) {
        StringBuilder out = new StringBuilder();
        for (int i : index.getOrDefault(asked, Set.of())) {
            out.append(texts.get(i), 0, Math.min(40, texts.get(i).length())).append("…\n");
            if (out.length() > 400) {
                break;
            }
        }
        return out.toString();
    }

    void work() {
        for (long id = 0; id < ORDERS; id++) {
            Order order = order(id);
            orders.put(id, order);
            byTotal.computeIfAbsent(order.total(), key -> new ArrayList<>()).add(order);
        }
        for (int i = 0; i < DOCUMENTS; i++) {
            documents.add(document(2));
        }
        for (int i = 0; i < REQUESTS; i++) {
            cache.put(word() + "?page=" + random.nextInt(20), answer(word()));
        }
    }

    void serve(int requests) {
        for (int i = 0; i < requests; i++) {
            long id = (long) (ORDERS * Math.pow(random.nextDouble(), SKEW));
            cache.put("order/" + id, orders.get(id).toString() + answer(word()));
            orders.put(id, order(id));
        }
    }

    public static void main(String[] args) throws IOException {
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
        List<String> texts = new ArrayList<>();
        for (String line = input.readLine(); line != null && !line.isEmpty(); line = input.readLine()) {
            texts.add(line);
        }
        Service service = new Service(texts);
        service.work();
        System.out.println("ready " + service.orders.size());
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            if (!line.isEmpty()) {
                service.serve(Integer.parseInt(line));
                System.out.println("done");
            }
        }
    }
}
