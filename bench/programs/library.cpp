// SPDX-License-Identifier: Apache-2.0
// What a compiler is given to work on.

#include <bits/stdc++.h>

namespace shop
{
struct line {
    std::string sku;
    unsigned count;
    double price;
};

struct order {
    std::uint64_t id;
    std::string customer;
    std::vector<line> lines;
    std::optional<std::string> note;
    std::variant<std::monostate, std::string, double> payment;

    double total() const
    {
        return std::accumulate(lines.begin(), lines.end(), 0.0, [](double sum, const line &l) {
            return sum + l.count * l.price;
        });
    }
};

template <typename Key, typename Value> class table
{
  public:
    Value &put(const Key &key, Value value)
    {
        std::unique_lock<std::shared_mutex> hold(lock);
        return rows.insert_or_assign(key, std::move(value)).first->second;
    }

    std::optional<Value> get(const Key &key) const
    {
        std::shared_lock<std::shared_mutex> hold(lock);
        auto found = rows.find(key);
        return found == rows.end() ? std::nullopt : std::optional<Value>(found->second);
    }

    template <typename Function> void each(Function function) const
    {
        std::shared_lock<std::shared_mutex> hold(lock);
        std::for_each(rows.begin(), rows.end(), [&](auto &row) { function(row.first, row.second); });
    }

  private:
    std::map<Key, Value> rows;
    mutable std::shared_mutex lock;
};

/* One of a family of types, so that every template is made anew for each. */
template <int Number> struct tag {
    int value;
    bool operator<(const tag &other) const
    {
        return value < other.value;
    }
    bool operator==(const tag &other) const
    {
        return value == other.value;
    }
};

template <int Number> double use(const std::vector<order> &orders)
{
    using key = tag<Number>;
    table<key, order> by_key;
    std::multimap<double, key> by_total;
    std::unordered_map<std::string, std::vector<key>> by_customer;
    std::set<key> seen;
    std::deque<std::tuple<key, std::string, double>> rows;
    std::list<std::pair<key, std::shared_ptr<order>>> shared;
    std::priority_queue<std::pair<double, std::string>> best;

    for (const order &o : orders) {
        key k{static_cast<int>(o.id)};
        by_key.put(k, o);
        by_total.emplace(o.total(), k);
        by_customer[o.customer].push_back(k);
        seen.insert(k);
        rows.emplace_back(k, o.customer, o.total());
        shared.emplace_back(k, std::make_shared<order>(o));
        best.emplace(o.total(), o.customer);
    }
    std::sort(rows.begin(), rows.end());
    std::stable_sort(rows.begin(), rows.end(), [](auto &a, auto &b) { return std::get<2>(a) < std::get<2>(b); });
    shared.remove_if([&](auto &entry) { return !seen.count(entry.first); });
    std::function<double(double)> scale = [n = Number](double x) { return x * n; };
    std::ostringstream out;
    by_key.each([&](const key &k, const order &o) {
        out << std::setw(8) << k.value << ' ' << std::fixed << std::setprecision(2) << scale(o.total()) << '\n';
    });
    std::future<std::size_t> length = std::async(std::launch::deferred, [text = out.str()] { return text.size(); });
    return static_cast<double>(length.get() + by_total.size() + best.size());
}

template <int... Numbers> double use_all(const std::vector<order> &orders, std::integer_sequence<int, Numbers...>)
{
    return (use<Numbers + 1>(orders) + ...);
}

inline bool is_mail(const std::string &text)
{
    static const std::regex mail("[[:alnum:]._-]+@([[:alnum:]-]+[.])+[[:alpha:]]{2,}");
    return std::regex_match(text, mail);
}

double all(const std::vector<order> &orders)
{
    return use_all(orders, std::make_integer_sequence<int, 4>());
}
} // namespace shop

